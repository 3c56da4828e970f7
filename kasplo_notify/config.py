"""The configuration: defaults, then the file, then the environment, then options of the command line.

`config_sections` has the table of keys, `config_checks` what a value may be, `config_sources` the reading of
files and variables. `config.example.toml` and `kasplo-notify config show` are held to the table.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from kasplo_notify.config_sections import (
    AlertsConfig,
    AttemptsConfig,
    DeadConfig,
    DeliveryConfig,
    EgressConfig,
    HealthConfig,
    LogConfig,
    RedisConfig,
    ReportConfig,
    Section,
    SpoolConfig,
    WebConfig,
    WorkerConfig,
)
from kasplo_notify.config_sources import find_file, from_environment, from_file, from_overrides
from kasplo_notify.errors import ConfigError, shown

__all__ = [
    "AlertsConfig",
    "AttemptsConfig",
    "Config",
    "DeadConfig",
    "DeliveryConfig",
    "EgressConfig",
    "HealthConfig",
    "LogConfig",
    "RedisConfig",
    "ReportConfig",
    "Setting",
    "SpoolConfig",
    "WebConfig",
    "WorkerConfig",
    "toml",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as `config show` shows it. `value` is what may be shown: of a secret only that there is one."""

    key: str
    value: object
    default: object
    source: str
    comment: str

    def __str__(self) -> str:
        return f"{self.key} = {toml(self.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration; `Config()` is all defaults, `Config.load()` what a process starts with.

    `file` is the file that was read, `sources` says where each key that is not left at its default was given;
    neither counts when configurations are compared.

    Raises:
        ConfigError: A value that its check refuses, or two that do not go together.
    """

    redis: RedisConfig = field(default_factory=RedisConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    egress: EgressConfig = field(default_factory=EgressConfig)
    dead: DeadConfig = field(default_factory=DeadConfig)
    attempts: AttemptsConfig = field(default_factory=AttemptsConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    web: WebConfig = field(default_factory=WebConfig)
    file: Path | None = field(default=None, compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for title, section in _SECTIONS.items():
            if not isinstance(getattr(self, title), section):
                raise ConfigError(f"{title} must be a {section.__name__}, not {shown(getattr(self, title))}.")
        timeout, lease = self.delivery.timeout, self.worker.lease
        if timeout > lease - 5:
            raise ConfigError(
                f"delivery.timeout ({timeout:g} s) must be at most worker.lease - 5 s ({lease - 5:g} s), so "
                "that no request outlives its lease; lower the one or raise the other."
            )
        if self.delivery.max_in_flight < self.delivery.queues:
            raise ConfigError(
                f"delivery.max_in_flight ({self.delivery.max_in_flight}) must be at least delivery.queues "
                f"({self.delivery.queues}): each queue needs one request."
            )

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Self:
        """Defaults, then the file, then the environment, then `overrides` (`{"redis.url": ...}`).

        Args:
            path: The file; without it the one that `KASPLO_CONFIG` names, else `./config.toml` if it exists.
            environ: Instead of `os.environ`.
            overrides: From command-line options: strings, or of the type of the key; None is not given.

        Raises:
            ConfigError: One sentence that names the key, and the file or variable that it came from.
        """
        environ = os.environ if environ is None else environ
        file = find_file(path, environ)
        given = from_file(file, _KEYS) if file is not None else {}
        given |= from_environment(environ, _KEYS)
        given |= from_overrides(overrides or {}, _KEYS)
        sections: dict[str, dict[str, object]] = {name: {} for name in _SECTIONS}
        for key, item in given.items():
            check = _KEYS[key].metadata["check"]
            section, _, name = key.partition(".")
            try:
                sections[section][name] = check.of(check.read(str(item.value)) if item.is_text else item.value)
            except ValueError as error:
                raise ConfigError(f"{key} {error} ({item.source}).") from None
        made: dict[str, Any] = {name: _SECTIONS[name](**values) for name, values in sections.items()}
        return cls(**made, file=file, sources={key: item.source for key, item in given.items()})

    def describe(self) -> list[Setting]:
        """Every key, in the order of the documentation."""
        defaults = Config()
        return [
            Setting(
                key=key,
                value=getattr(self, section).showable(name),
                default=getattr(defaults, section).showable(name),
                source=self.sources.get(key, "default"),
                comment=item.metadata["comment"],
            )
            for key, item in _KEYS.items()
            for section, _, name in [key.partition(".")]
        ]


def toml(value: object) -> str:
    """A value of the configuration as TOML has it; `""` stands for None."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:.15g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    escaped = "" if value is None else str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_SECTIONS: Final[Mapping[str, type[Section]]] = {
    section.title(): section
    for section in (
        *(RedisConfig, DeliveryConfig, WorkerConfig, EgressConfig, DeadConfig, AttemptsConfig, ReportConfig),
        *(SpoolConfig, HealthConfig, AlertsConfig, LogConfig, WebConfig),
    )
}
_KEYS: Final = {f"{title}.{item.name}": item for title, section in _SECTIONS.items() for item in fields(section)}
