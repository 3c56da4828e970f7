"""What every command starts with: the configuration and the registry, opened when they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kasplo_notify.config import Config

if TYPE_CHECKING:
    from kasplo_notify.registry import Registry


class Session:
    """One run of the command line.

    Attributes:
        config_file: `--config`.
        redis_url: `--redis-url`.
    """

    def __init__(self) -> None:
        self.config_file: str | None = None
        self.redis_url: str | None = None

    @cached_property
    def config(self) -> Config:
        """The configuration.

        Raises:
            ConfigError: It is wrong.
        """
        path = None if self.config_file is None else Path(self.config_file)
        return Config.load(path, overrides={"redis.url": self.redis_url})

    @contextmanager
    def registry(self) -> Iterator["Registry"]:
        """The registry, closed at the end.

        Raises:
            ConfigError: The configuration is wrong.
            StorageUnavailable: The URL is `embedded` and no embedded server runs.
        """
        config = self.config
        from kasplo_notify.registry import Registry  # noqa: PLC0415 - redis-py takes 100 ms; not all need it

        registry = Registry.open(config)
        try:
            yield registry
        finally:
            registry.close()

    def worker_options(self) -> tuple[str, ...]:
        """The global options for worker processes. The URL, which may hold a password, goes by environment."""
        return () if self.config_file is None else ("--config", self.config_file)


pass_session = click.make_pass_decorator(Session, ensure=True)
