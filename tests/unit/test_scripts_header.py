"""Every script says at its head what it does, what it is given and what it returns."""

import re
from pathlib import Path

import pytest

import kasplo_notify

SCRIPTS = Path(kasplo_notify.__file__).parent / "scripts"
SHARED = {"shared", "read_queue"}
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.lua") if path.stem not in SHARED)


def split(name: str) -> tuple[str, str]:
    """The comment at the head of a script, and its code."""
    text = (SCRIPTS / f"{name}.lua").read_text()
    head, _, code = text.partition("\n\n")
    assert all(line.startswith("--") for line in head.splitlines())
    return head, code


def code_without_comments(code: str) -> str:
    return re.sub(r"--.*", "", code)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_says_what_the_script_does_and_returns(name: str) -> None:
    head, _ = split(name)
    assert head.startswith(f"-- {name}: ")
    assert "Returns" in head


@pytest.mark.parametrize("name", NAMES)
def test_every_key_and_argument_that_is_used_is_explained(name: str) -> None:
    head, code = split(name)
    used = code_without_comments(code)
    keys, arguments = re.search(r"-- KEYS(.*?)-- ARGV(.*)", head, re.DOTALL).groups()  # type: ignore[union-attr]
    assert "[1] stem" in keys
    assert set(re.findall(r"KEYS(\[\d+\])", used)) <= set(re.findall(r"\[\d+\]", keys))
    assert set(re.findall(r"ARGV(\[\d+\])", used)) <= set(re.findall(r"\[\d+\]", arguments))


def test_the_data_model_stands_in_one_place_and_names_every_key() -> None:
    shared = (SCRIPTS / "shared.lua").read_text()
    model, _, _ = shared.partition("\nlocal base")
    assert "THE DATA MODEL" in model
    names = set()
    for path in SCRIPTS.glob("*.lua"):
        names |= set(re.findall(r"base \.\. '([a-z]+)", code_without_comments(path.read_text())))
    described = set(re.findall(r"[a-z]+", model))
    assert names - described == set()


def test_every_script_is_called_and_every_call_has_a_script() -> None:
    package = SCRIPTS.parent
    sources = [path.read_text() for path in [*package.rglob("*.py"), *(package.parent / "workers").rglob("*.py")]]
    called = {name for source in sources for name in re.findall(r'Call\(\s*"([a-z]+)"', source)}
    assert called == set(NAMES)
