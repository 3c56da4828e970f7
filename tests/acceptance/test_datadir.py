"""The data folder: where the socket goes, what is in the way, and who runs here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kasplo_notify.config import Config
from kasplo_notify.datadir import RunLock, socket_path
from kasplo_notify.embedded import EmbeddedServer, attached_url
from kasplo_notify.errors import AlreadyRunning, ConfigError, StorageUnavailable

ROOT = Path(__file__).resolve().parents[2]


def config_for(data_dir: Path) -> Config:
    return Config.load(environ={}, overrides={"redis.data_dir": str(data_dir)})


def test_a_long_data_folder_gets_a_private_short_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 40) / "with ünïcode and spaces"
    config = config_for(data_dir)
    with EmbeddedServer(config) as server:
        folder = socket_path(data_dir).parent
        assert folder != data_dir
        assert folder.stat().st_mode & 0o777 == 0o700
        assert attached_url(config) == server.url
    assert not folder.exists()


def test_a_short_socket_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 40)
    folder = socket_path(data_dir).parent
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigError, match="belongs to someone else"):
            EmbeddedServer(config_for(data_dir)).start()
    finally:
        folder.unlink()


@pytest.mark.parametrize("name", ["server.sock", "run.lock", "server.lock", "server.log", "appendonlydir"])
def test_something_in_the_way_is_named_and_left_alone(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    if name in {"server.sock", "appendonlydir"}:
        foreign.write_text("mine")
    else:
        foreign.mkdir()
    with pytest.raises((ConfigError, StorageUnavailable), match=rf"{name}") as caught:
        EmbeddedServer(config_for(tmp_path)).start()
    assert "\n" not in str(caught.value)
    assert foreign.is_dir() or foreign.read_text() == "mine"


def test_a_data_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(ConfigError, match=r"data cannot be used \(file exists\); free it, or choose another"):
        EmbeddedServer(config_for(tmp_path / "data")).start()


def test_a_data_folder_that_cannot_be_made_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"/dev/null/data cannot be used \(not a directory\)"):
        EmbeddedServer(config_for(Path("/dev/null/data"))).start()


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "shared" / "something").touch()
    with pytest.raises(ConfigError, match=r"every user of this machine.* or run: chmod o-w"):
        EmbeddedServer(config_for(tmp_path / "shared")).start()


def test_a_folder_that_is_shared_on_purpose_is_refused_without_advice_to_close_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "something").touch()
    with pytest.raises(ConfigError, match=r"KASPLO_REDIS__DATA_DIR \(redis\.data_dir\)$"):
        EmbeddedServer(config_for(tmp_path / "shared")).start()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: both make write() fail with a named error."""
    script = """
import resource, sys
from kasplo_notify.config import Config
from kasplo_notify.embedded import EmbeddedServer
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
EmbeddedServer(Config.load(environ={}, overrides={"redis.data_dir": sys.argv[1]})).start()
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "ConfigError" in run.stderr
    assert "cannot be used (file too large)" in run.stderr


def test_the_lock_of_an_installation_is_free_again_when_it_is_released(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.acquire(embedded=False)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        RunLock(tmp_path).acquire(embedded=False)
    first.release()
    with RunLock(tmp_path):
        pass
