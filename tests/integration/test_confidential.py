"""Values that no other user of the machine is to see on a command line: out of files and standard input."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from kasplo_notify.cli import root
from kasplo_notify.registry import Registry
from kasplo_notify.signature import generate_secret
from tests.integration.shard import Shard

pytestmark = pytest.mark.parametrize("wire", ["server"], indirect=True)


def command(shard: Shard, *args: str, given: str | None = None) -> Result:
    done = CliRunner().invoke(root, list(args), env={"KASPLO_REDIS__URL": shard.url}, input=given)
    assert done.exit_code == 0, done.output
    return done


def test_secret_basic_and_headers_may_stand_in_files_and_come_in_by_standard_input(
    shard: Shard, registry: Registry, tmp_path: Path
) -> None:
    first, second = generate_secret(), generate_secret()
    (tmp_path / "secret").write_text(f"{first}\n")
    (tmp_path / "basic").write_bytes("joe:pä ss \r\n".encode())
    (tmp_path / "token").write_text("X-Token: k-99b1c0ffee")
    files = ("--secret", f"@{tmp_path}/secret", "--basic", f"@{tmp_path}/basic", "--header", f"@{tmp_path}/token")
    done = command(shard, "endpoint", "add", "crm", "https://h.example/", *files, "--header", "X-Tenant: @42")
    added = registry.get("crm")
    assert (added.secret, added.basic) == (first, "joe:pä ss ")
    assert added.headers == (("X-Token", "k-99b1c0ffee"), ("X-Tenant", "@42"))
    assert "k-99b1c0ffee" not in done.output

    given = f"joe:other\nX-Token: another\nX-A: b\n{second}\nnot asked for\n"
    inputs = ("--basic", "@-", "--header", "@-", "--header", "@-", "--secret", "@-")
    command(shard, "endpoint", "update", "crm", *inputs, given=given)
    updated = registry.get("crm")
    assert (updated.secret, updated.basic) == (second, "joe:other")
    assert updated.headers == (("X-Token", "another"), ("X-A", "b"))

    done = command(shard, "endpoint", "rotate-secret", "crm", "--secret", "@-", "--json", given=first)
    assert orjson.loads(done.stdout)["secret"] == registry.get("crm").secret == first
