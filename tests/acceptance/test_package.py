"""The wheel and the sdist: built from the tree, complete, and working once installed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_what_runs_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = {
        str(path.relative_to(ROOT))
        for package in ("kasplo_notify", "workers")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".lua", ".typed"}
    }
    assert tracked <= names
    assert {name.split("/")[0] for name in names - tracked} == {f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_the_sdist_holds_what_is_needed_to_build_and_test(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "Makefile",
        "Procfile",
        "config.example.toml",
    } <= names
    assert {"kasplo_notify/scripts/push.lua", "workers/__init__.py", "tests/acceptance/test_package.py"} <= names


def test_the_installed_wheel_gives_a_working_command(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import kasplo_notify, workers\n"
        f"assert kasplo_notify.__file__.startswith({str(site)!r}) and workers.__file__.startswith({str(site)!r})\n"
        "from kasplo_notify.store import script\n"
        "assert script('push').text\n"
        "from kasplo_notify.cli import main\n"
        "sys.argv = ['kasplo-notify', 'events', 'scomp']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scomp: Spam complaint" in done.stdout
    assert (site / "bin" / "kasplo-notify").exists()
