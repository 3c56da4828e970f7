"""Where values of the configuration come from: a TOML file, the environment, options of the command line.

Each source becomes `key -> Given`, the key as `section.name`. Unknown keys are refused here; values are not
looked at.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kasplo_notify.errors import ConfigError, nearest, shown

PREFIX: Final = "KASPLO_"
FILE_VARIABLE: Final = "KASPLO_CONFIG"
DEFAULT_FILE: Final = Path("config.toml")


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave. `source` names the file or variable; `is_text`: it is still to be read."""

    value: object
    source: str
    is_text: bool = False


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file: the one named, else `KASPLO_CONFIG`, else `./config.toml` if there is one."""
    if path is not None:
        return Path(path)
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    # Nobody named it: a message has to say in which folder it was found.
    return DEFAULT_FILE.absolute() if DEFAULT_FILE.is_file() else None


def from_file(path: Path, known: Collection[str]) -> dict[str, Given]:
    """The values of a TOML file.

    Raises:
        ConfigError: It cannot be read, is not TOML, or has an unknown key.
    """
    import tomllib  # noqa: PLC0415 - 5 ms, and most processes are configured by the environment

    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
        raise ConfigError(f"The configuration file {path} is not TOML: {reason}.") from error
    source = f"file {path}"
    return {key: Given(value, source) for key, value in _flat(document, known, source)}


def _flat(document: Mapping[str, object], known: Collection[str], source: str) -> Iterator[tuple[str, object]]:
    sections = {key.partition(".")[0] for key in known}
    for section, values in document.items():
        if not isinstance(values, dict):
            if section in sections:
                message = f"{section} must be a section, written [{section}], not {shown(values)}"
            else:
                message = f"{section[:60]} is not a key{_meant(section, known)}"
            raise ConfigError(f"{message} ({source}).")
        if not values and section not in sections:
            raise ConfigError(f"[{section[:60]}] is not a section{_meant(section, sections)} ({source}).")
        for name, value in values.items():
            key = f"{section}.{name}"
            if key not in known:
                raise ConfigError(f"{key[:120]} is not a key{_meant(key, known)} ({source}).")
            yield key, value


def from_environment(environ: Mapping[str, str], known: Collection[str]) -> dict[str, Given]:
    """The values of variables `KASPLO_<SECTION>__<KEY>`.

    Raises:
        ConfigError: A variable of that form, or nearly of it, that names no key.
    """
    keys = {PREFIX + key.replace(".", "__").upper(): key for key in known}
    near = {variable.replace("__", "_"): variable for variable in keys}
    given = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable in keys:
            given[keys[variable]] = Given(value, f"environment variable {variable}", is_text=True)
        elif meant := near.get(variable.upper().replace("__", "_")):
            raise ConfigError(f"The environment variable {variable} names no key; did you mean {meant}?")
        elif namesakes := [name for name in keys if name.endswith(f"__{variable.removeprefix(PREFIX).upper()}")]:
            meant = " or ".join(namesakes)
            raise ConfigError(f"The environment variable {variable} names no key; did you mean {meant}?")
        elif "__" in variable:
            meant = nearest(variable, keys)
            hint = f"did you mean {meant}?" if meant else "config.example.toml lists all keys."
            raise ConfigError(f"The environment variable {variable[:120]} names no key; {hint}")
    return given


def from_overrides(overrides: Mapping[str, object], known: Collection[str]) -> dict[str, Given]:
    """The values of command-line options, strings or of the type of the key; None is an option not given.

    Raises:
        ConfigError: An unknown key.
    """
    given = {}
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(f"{key} is not a key{_meant(key, known)} (command line).")
        if value is not None:
            given[key] = Given(value, "command line", is_text=isinstance(value, str))
    return given


def _meant(key: str, known: Collection[str]) -> str:
    """The key of the same name in another section, else the nearest by spelling, as the end of a sentence."""
    namesakes = [candidate for candidate in known if candidate.endswith("." + key.rpartition(".")[2])]
    meant = nearest(key, namesakes or known) or next(iter(namesakes), None)
    return f"; did you mean {meant}?" if meant else "; config.example.toml lists all keys"
