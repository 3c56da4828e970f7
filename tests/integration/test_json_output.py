"""JSON that commands write: a terminal obeys nothing in it, and whoever reads it gets what is stored."""

import json
import re
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from kasplo_notify.cli import root
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.registry import Registry
from kasplo_notify.stored import StoredEvent
from tests.integration.shard import Shard, scomp

pytestmark = pytest.mark.parametrize("wire", ["server"], indirect=True)

# C0 and DEL, C1 (CSI and OSC in one character), what turns the direction of writing, line breaks of Unicode, other
# format characters, private use, and what is printable and stays as it is.
OBEYED = "\x1b[2J\x7f\x85\x9b31m\x9d0;x\x9c\u202e\u2066\u200f\u061c\u2028\u2029\ufeff\u200b\U000e0041\ue000\u00ad"
TEXT = f"a{OBEYED}Grüße 世界 😀"


def command(shard: Shard, *args: str, given: str | None = None, **more: str) -> Result:
    environ = {"KASPLO_REDIS__URL": shard.url, **more}
    return CliRunner().invoke(root, list(args), env=environ, input=given)


@pytest.fixture
def filled(shard: Shard, registry: Registry) -> Shard:
    """An endpoint with attempts and dead letters in which a subscriber and a producer said such things."""
    registry.add(Endpoint(name="crm", url="https://crm.example/", headers=(("X-A", "b"),), queues=1))
    said = {"detail": TEXT, "excerpt": TEXT.encode(), "result": TEXT, "reason": TEXT, "id": TEXT}
    shard.client.xadd(shard.keys("attempts:crm"), said)
    body = orjson.dumps(scomp(TEXT, mail_class="promo"))
    letter = {"e": StoredEvent("msg_1", "promo", body).pack(), "q": "crm.0", "r": TEXT, "d": TEXT, "p": b"1,0,1"}
    shard.client.xadd(shard.keys("dead:crm"), letter)
    shard.client.hset(shard.keys("dead"), "crm", len(body))
    shard.client.hset(shard.keys("health:crm"), "paused", TEXT)
    shard.client.hset("kasplo:endpoints", TEXT.encode(), b"{}")
    return shard


WITH_TEXT = (
    "attempts crm --json | dead list --json | dead show crm --json | dead export | dead export --for-emit"
    " | status --json | status crm --json | endpoint list --json | endpoint show crm --json | doctor --json"
)


@pytest.mark.parametrize("args", [line.split() for line in WITH_TEXT.split(" | ")], ids=" ".join)
def test_nothing_that_a_terminal_obeys_is_in_the_output_and_its_value_is_the_same(
    filled: Shard, args: list[str]
) -> None:
    done = command(filled, *args)
    assert done.exit_code in (0, 1)
    assert done.stdout.replace("\n", "").isprintable()
    documents = [json.loads(line) for line in done.stdout.splitlines()] if "export" in args else json.loads(done.stdout)
    told = json.dumps(documents, ensure_ascii=False)
    # The word for a pause is cut, and doctor and the list of broken records quote.
    whole = args[0] in ("attempts", "dead")
    assert (json.dumps(TEXT, ensure_ascii=False)[1:-1] in told) if whole else re.search(r"\\u202e|\u202e|202e", told)
    if whole:
        assert "Grüße 世界 😀" in done.stdout


def test_what_is_exported_is_emitted_as_it_was(shard: Shard, registry: Registry) -> None:
    address = "a\u202e\u2028\u00adGrüße@example.com"
    body = orjson.dumps(scomp(address))
    letter = {"e": StoredEvent("msg_1", "promo", body).pack(), "q": "old.0", "r": "x", "d": "x", "p": b"1,0,1"}
    shard.client.xadd(shard.keys("dead:old"), letter)
    shard.client.hset(shard.keys("dead"), "old", len(body))
    registry.add(Endpoint(name="new", url="https://new.example/", queues=1))
    exported = command(shard, "dead", "export", "--for-emit").stdout
    assert exported.strip().isprintable()
    done = command(shard, "emit", given=exported)
    assert done.exit_code == 0, done.output
    ((_, fields),) = shard.client.xrange(shard.keys("new:new.0"))
    assert orjson.loads(StoredEvent.unpack(fields[b"e"]).body)["email"] == address


def test_a_path_that_is_no_text_can_be_written(filled: Shard, tmp_path: Path) -> None:
    spool = tmp_path / "a\udcff\x9b"
    spool.mkdir(mode=0o700)
    for args in (["spool", "--json"], ["doctor", "--json"], ["config", "show", "--json"]):
        done = command(filled, *args, KASPLO_SPOOL__PATH=str(spool))
        assert done.exit_code in (0, 1), done.output
        assert done.stdout.replace("\n", "").isprintable()
        json.loads(done.stdout)
