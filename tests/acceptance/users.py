"""The users of Redis, as the document has them."""

import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.acceptance.world import ROOT, World


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the document: what the server's command `ACL SETUSER` is given."""

    user: str
    words: tuple[str, ...]

    @property
    def commands(self) -> set[str]:
        """The commands that it allows, those of selectors included."""
        every = " ".join(self.words).replace("(", " ").replace(")", " ").split()
        return {word[1:] for word in every if word.startswith("+")}


def documented() -> list[Rule]:
    """The lines of docs/operations.md."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    split = [shlex.split(line) for line in lines if line.startswith("ACL SETUSER kasplo-")]
    return [Rule(words[2], tuple(words[3:])) for words in split]


def make_users(client: Any) -> None:
    """Make the users, word for word: their passwords are those that stand there for one."""
    for rule in documented():
        client.execute_command("ACL", "SETUSER", rule.user, *rule.words)


def url_for(world: World, user: str) -> str:
    """The URL of a world's server for one of them."""
    path = world.config.redis.url.removeprefix("unix://")
    password = f"{user.removeprefix('kasplo-').upper()}-PASSWORD"
    return f"unix://{path}?" + urlencode({"username": user, "password": password})
