"""The configuration: defaults, where values come from, and one clear sentence for each that is wrong."""

import copy
import os
import pickle
import re
import tomllib
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from kasplo_notify.config import (
    AlertsConfig,
    Config,
    DeliveryConfig,
    EgressConfig,
    RedisConfig,
    WebConfig,
    WorkerConfig,
    toml,
)
from kasplo_notify.config_checks import masked_url
from kasplo_notify.errors import ConfigError
from kasplo_notify.store import connect

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
# Every documented key and its default. That of redis.data_dir is the platform's; deny_ports is long.
DEFAULTS = {
    "redis.url": "embedded",
    "redis.prefix": "kasplo:",
    "delivery.delay": 30,
    "delivery.use_json_for_http_post": True,
    "delivery.timeout": 10,
    "delivery.connect_timeout": 3,
    "delivery.retry_delays": (30, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400, 28800, 28800),
    "delivery.jitter": 0.5,
    "delivery.max_age": 259200,
    "delivery.max_backlog": 1000000,
    "delivery.max_in_flight": 128,
    "delivery.queues": 4,
    "worker.lease": 30,
    "worker.max_in_flight": 256,
    "worker.max_slow": 1024,
    "worker.queue": "kasplo",
    "egress.allow": (),
    "egress.deny": (),
    "egress.https_only": False,
    "dead.keep_days": 30,
    "dead.max_bytes": 268435456,
    "attempts.keep": 100,
    "report.keep": 100000,
    "spool.path": None,
    "spool.max_bytes": 1073741824,
    "health.pause_after": 432000,
    "alerts.url": None,
    "log.format": "auto",
    "web.token": None,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads a ./config.toml or variables of the machine that it runs on."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("KASPLO_")]:
        monkeypatch.delenv(variable)


def refused(
    *, file: str | None = None, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> str:
    """The message for this configuration, which must be refused with a single sentence on a single line."""
    if file is not None:
        Path("config.toml").write_text(file)
    with pytest.raises(ConfigError) as caught:
        Config.load(environ=env or {}, overrides=overrides)
    message = str(caught.value).replace(f"{Path.cwd()}/", "")
    assert "\n" not in message
    assert len(message) < 400
    return message


def value(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_the_defaults_are_those_of_the_contract() -> None:
    config = Config()
    assert {key: value(config, key) for key in DEFAULTS} == DEFAULTS
    assert config.redis.data_dir.name == "kasplo-notify"
    assert config.redis.data_dir.is_absolute()
    ports = {22, 25, 53, 110, 143, 445, 465, 587, 993, 995, 1433, 2049, 2375, 3306, 3389, 5432, 5672, 5900, 6379}
    assert ports | {9200, 11211, 27017} <= set(config.egress.deny_ports)
    assert not {80, 443, 8000, 8080, 8443, 3000, 5000} & set(config.egress.deny_ports)


def test_there_are_no_other_keys() -> None:
    keys = {row.key for row in Config().describe()}
    assert keys == {*DEFAULTS, "redis.data_dir", "egress.deny_ports"}
    sections = [item.name for item in fields(Config) if is_dataclass(getattr(Config(), item.name))]
    assert list(dict.fromkeys(row.key.partition(".")[0] for row in Config().describe())) == sections


def test_without_file_and_variables_load_gives_the_defaults() -> None:
    config = Config.load(environ={})
    assert config == Config()
    assert (config.file, config.sources) == (None, {})


class TestTheExampleFile:
    def uncommented(self) -> dict[str, dict[str, object]]:
        lines = EXAMPLE.read_text().splitlines()
        return tomllib.loads("\n".join(re.sub(r"^#(?=[a-z_]+ = |\]$|   \d)", "", line) for line in lines))

    def test_loads_as_it_is_and_changes_nothing(self) -> None:
        assert Config.load(EXAMPLE, environ={}) == Config()

    def test_has_every_key_with_its_default_and_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = {row.key: row.default for row in Config().describe()}
        listed = {f"{name}.{key}": item for name, keys in self.uncommented().items() for key, item in keys.items()}
        assert list(listed) == list(rows)
        del listed["redis.data_dir"]
        assert {key: toml(tuple(item) if isinstance(item, list) else item) for key, item in listed.items()} == {
            key: toml(default) for key, default in rows.items() if key != "redis.data_dir"
        }

    def test_loads_with_every_key_active(self) -> None:
        lines = EXAMPLE.read_text().splitlines()
        active = [re.sub(r"^#(?=[a-z_]+ = |\]$|   \d)", "", line) for line in lines]
        Path("config.toml").write_text("\n".join(active))
        config = Config.load(environ={}, overrides={"redis.data_dir": Config().redis.data_dir})
        assert config == Config()
        assert set(config.sources) == {row.key for row in Config().describe()}

    def test_explains_every_key_in_the_line_above_it(self) -> None:
        lines = EXAMPLE.read_text().splitlines()
        section, explained = "", {}
        for above, line in pairwise(lines):
            section = line.strip("[]") if line.startswith("[") else section
            if key := re.match(r"#([a-z_]+) = ", line):
                explained[f"{section}.{key[1]}"] = above.removeprefix("# ")
        assert explained == {row.key: row.comment for row in Config().describe()}


class TestWhereValuesComeFrom:
    def test_file_then_environment_then_command_line(self) -> None:
        Path("config.toml").write_text("[delivery]\ndelay = 1\ntimeout = 2\nqueues = 2\n")
        env = {"KASPLO_DELIVERY__TIMEOUT": "3", "KASPLO_DELIVERY__QUEUES": "3", "HOME": "/"}
        config = Config.load(environ=env, overrides={"delivery.queues": 5, "redis.url": None})
        delivery = config.delivery
        assert (delivery.delay, delivery.timeout, delivery.queues, delivery.jitter) == (1, 3, 5, 0.5)
        assert config.file == Path("config.toml").absolute()
        assert config.sources == {
            "delivery.delay": f"file {Path.cwd()}/config.toml",
            "delivery.timeout": "environment variable KASPLO_DELIVERY__TIMEOUT",
            "delivery.queues": "command line",
        }

    def test_the_file_named_wins_over_the_variable_over_the_folder(self, tmp_path: Path) -> None:
        for name in ("config", "variable", "option"):
            Path(f"{name}.toml").write_text(f'[worker]\nqueue = "{name}"\n')
        env = {"KASPLO_CONFIG": str(tmp_path / "variable.toml")}
        assert Config.load(environ={}).worker.queue == "config"
        assert Config.load(environ={"KASPLO_CONFIG": ""}).worker.queue == "config"
        assert Config.load(environ=env).worker.queue == "variable"
        assert Config.load(Path("option.toml"), environ=env).worker.queue == "option"

    def test_the_environment_is_that_of_the_process_unless_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KASPLO_REDIS__PREFIX", "mine:")
        assert Config.load().redis.prefix == "mine:"

    def test_every_key_can_come_from_a_variable(self) -> None:
        values = {
            "KASPLO_REDIS__URL": "redis://localhost:6379/0",
            "KASPLO_REDIS__DATA_DIR": "/var/lib/kasplo",
            "KASPLO_DELIVERY__DELAY": "0.5",
            "KASPLO_DELIVERY__USE_JSON_FOR_HTTP_POST": "False",
            "KASPLO_DELIVERY__RETRY_DELAYS": "[1, 2.5]",
            "KASPLO_WORKER__QUEUE": "123",
            "KASPLO_EGRESS__ALLOW": '["127.0.0.0/8", "::1"]',
            "KASPLO_EGRESS__DENY_PORTS": "[]",
            "KASPLO_EGRESS__HTTPS_ONLY": "yes",
            "KASPLO_SPOOL__PATH": "/var/spool/kasplo",
            "KASPLO_ALERTS__URL": "",
        }
        config = Config.load(environ=values)
        assert config.redis.url == "redis://localhost:6379/0"
        assert config.redis.data_dir == Path("/var/lib/kasplo")
        assert config.delivery.delay == 0.5
        assert not config.delivery.use_json_for_http_post
        assert config.delivery.retry_delays == (1.0, 2.5)
        assert config.worker.queue == "123"
        assert config.egress == EgressConfig(allow=("127.0.0.0/8", "::1/128"), deny_ports=(), https_only=True)
        assert config.spool.path == Path("/var/spool/kasplo")
        assert config.alerts.url is None

    def test_variables_of_others_are_left_alone(self) -> None:
        env = {"KASPLO_HOME": "/opt/kasplo", "KASPLO": "x", "OTHER_KASPLO_REDIS__URL": "x", "kasplo_redis__url": "x"}
        assert Config.load(environ=env) == Config()

    def test_a_home_folder_is_filled_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        assert Config.load(environ={"KASPLO_REDIS__DATA_DIR": "~/k"}).redis.data_dir == Path("/home/me/k")


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ("[delivery]\ndely = 1", "delivery.dely is not a key; did you mean delivery.delay? (file config.toml)."),
            ("[delivry]\ndelay = 1", "delivry.delay is not a key; did you mean delivery.delay? (file config.toml)."),
            ("[delivery]\nlease = 1", "delivery.lease is not a key; did you mean worker.lease? (file config.toml)."),
            ("delay = 1", "delay is not a key; did you mean delivery.delay? (file config.toml)."),
            ("[delivry]", "[delivry] is not a section; did you mean delivery? (file config.toml)."),
            ("redis = 'x'", "redis must be a section, written [redis], not 'x' (file config.toml)."),
            ("[x]\ny = 1", "x.y is not a key; config.example.toml lists all keys (file config.toml)."),
            ("[redis.url]\nx = 1", "redis.url must be"),
        ],
    )
    def test_in_the_file_are_refused_with_the_nearest_known(self, file: str, message: str) -> None:
        assert refused(file=file).startswith(message)

    @pytest.mark.parametrize(
        ("variable", "meant"),
        [
            ("KASPLO_DELIVERY__DELY", "did you mean KASPLO_DELIVERY__DELAY?"),
            ("KASPLO_REDIS_URL", "did you mean KASPLO_REDIS__URL?"),
            ("KASPLO_redis__url", "did you mean KASPLO_REDIS__URL?"),
            ("KASPLO_DELIVERY__MAX__AGE", "did you mean KASPLO_DELIVERY__MAX_AGE?"),
            ("KASPLO_DELAY", "did you mean KASPLO_DELIVERY__DELAY?"),
            ("KASPLO_url", "did you mean KASPLO_REDIS__URL or KASPLO_ALERTS__URL?"),
            ("KASPLO_Q__Q", "config.example.toml lists all keys."),
        ],
    )
    def test_in_the_environment_are_refused_too(self, variable: str, meant: str) -> None:
        assert refused(env={variable: "1"}) == f"The environment variable {variable} names no key; {meant}"

    def test_a_variable_of_another_program_is_left_alone(self) -> None:
        assert Config.load(environ={"KASPLO_HOME": "/opt", "KASPLO_VERSION": "7"}) == Config()

    def test_on_the_command_line_are_refused_too(self) -> None:
        message = refused(overrides={"redis.ulr": "x"})
        assert message == "redis.ulr is not a key; did you mean redis.url? (command line)."


class TestBadFiles:
    def test_a_file_that_was_named_must_exist(self) -> None:
        message = refused(env={"KASPLO_CONFIG": "/nowhere/k.toml"})
        assert message == "The configuration file /nowhere/k.toml cannot be read: No such file or directory."

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        assert "cannot be read: Is a directory" in refused(env={"KASPLO_CONFIG": str(tmp_path)})

    @pytest.mark.parametrize(
        "content", [b"[redis", b"[redis]\n[redis]", b"x = " + b"[" * 100_000, b"x = " + b"9" * 5000]
    )
    def test_what_is_not_toml_is_said_so(self, content: bytes) -> None:
        Path("config.toml").write_bytes(content)
        assert refused().startswith("The configuration file config.toml is not TOML: ")

    def test_what_is_not_utf8_is_said_so(self) -> None:
        Path("config.toml").write_bytes(b'[redis]\nprefix = "\xff"')
        assert refused() == "The configuration file config.toml is not TOML: it is not UTF-8."

    def test_a_byte_order_mark_is_no_fault(self) -> None:
        Path("config.toml").write_bytes(b"\xef\xbb\xbf[delivery]\ndelay = 1")
        assert Config.load(environ={}).delivery.delay == 1


BAD = [
    ("redis.url", '"http://localhost"', 'must be "embedded" or a URL that begins redis://'),
    ("redis.url", '"localhost:6379"', 'must be "embedded" or a URL that begins redis://'),
    ("redis.url", '"redis://"', "must have a host and a valid port"),
    ("redis.url", '"redis://h:99999"', "must have a host and a valid port"),
    ("redis.url", '"redis://[::1/0"', "must have a host and a valid port"),
    ("redis.url", '"unix://"', "must have a host"),
    ("redis.url", '"redis://h/0 "', "without spaces"),
    ("redis.url", '"redis://h/abc"', "must end with the number of the database"),
    ("redis.url", '"redis://h/0/1"', "must end with the number of the database"),
    ("redis.url", '"redis://h/0#1"', "must end with the number of the database"),
    ("redis.url", '"redis://h/0?foo=bar"', "has the option 'foo'; known are db, username"),
    ("redis.url", '"redis://h/0?decode_responses=true"', "has the option 'decode_responses'"),
    ("redis.url", '"redis://h/0?socket_timeout=5"', "has the option 'socket_timeout'"),
    ("redis.url", '"redis://h/0?ssl_ca_certs=x"', "has the option 'ssl_ca_certs'"),
    ("redis.url", '"rediss://h/0?ssl_cert_reqs=maybe"', "has a value for ssl_cert_reqs that cannot be used"),
    ("redis.url", '"redis://h/0?db=x"', "has a value for db that cannot be used"),
    ("redis.url", '"redis://h/0?db=1&db=2"', "has a value for db that cannot be used"),
    ("redis.url", '""', 'must be "embedded" or a URL'),
    ("redis.url", "1", "not 1"),
    ("redis.data_dir", '""', "must be a path, not ''"),
    ("redis.data_dir", '"a\\u0000b"', "must be a path"),
    ("redis.data_dir", '"~nobody-of-this-name/x"', "begins with ~, and there is no home folder"),
    ("redis.prefix", '"k{s}:"', "must be 1 to 64 printable ASCII characters without spaces and braces"),
    ("redis.prefix", '""', "must be 1 to 64"),
    ("redis.prefix", '"a b"', "must be 1 to 64"),
    ("delivery.delay", '"30"', "must be a number from 0 to 86400, not '30'"),
    ("delivery.delay", "true", "not true"),
    ("delivery.delay", "-1", "not -1"),
    ("delivery.delay", "nan", "not nan"),
    ("delivery.delay", "inf", "not inf"),
    ("delivery.delay", "1979-05-27", "not a value of type date"),
    ("delivery.delay", "{}", "not an object"),
    ("delivery.use_json_for_http_post", "1", "must be true or false, not 1"),
    ("delivery.timeout", "0", "must be a number from 0.1 to 3600"),
    ("delivery.connect_timeout", "0", "must be a number from 0.1 to 3600"),
    ("delivery.retry_delays", "30", "must be a list, not 30"),
    ("delivery.retry_delays", '[1, "2"]', "(item 2) must be a number from 0 to 2592000, not '2'"),
    ("delivery.retry_delays", f"{[1] * 101}", "has 101 items; at most 100 are taken"),
    ("delivery.jitter", "1.1", "must be a number from 0 to 1, not 1.1"),
    ("delivery.max_age", "0", "must be a number from 1 to"),
    ("delivery.max_backlog", "1.0", "must be a whole number from 1 to 1000000000, not 1.0"),
    ("delivery.max_backlog", "false", "must be a whole number"),
    ("delivery.max_in_flight", "0", "must be a whole number from 1"),
    ("delivery.queues", "65", "must be a whole number from 1 to 64"),
    ("worker.lease", "4", "must be a number from 5 to 3600"),
    ("worker.max_slow", "-1", "must be a whole number from 0"),
    ("worker.queue", '"a b"', "must be 1 to 64 of the characters A-Z a-z 0-9 _ . -"),
    (
        "egress.allow",
        '["10.0.0.1/8"]',
        "(item 1) must be a network, and '10.0.0.1/8' is an address in one; did you mean 10.0.0.0/8?",
    ),
    ("egress.allow", '["example.com"]', "(item 1) must be a network such as 10.0.0.0/8"),
    ("egress.allow", "[10]", "(item 1) must be a network such as 10.0.0.0/8 or fd00::/8, not 10"),
    ("egress.deny", '"10.0.0.0/8"', "must be a list"),
    ("egress.deny_ports", "[0]", "(item 1) must be a whole number from 1 to 65535, not 0"),
    ("dead.keep_days", "-1", "must be a number from 0"),
    ("dead.max_bytes", "-1", "must be a whole number"),
    ("attempts.keep", "-1", "must be a whole number"),
    ("report.keep", "-1", "must be a whole number"),
    ("spool.path", "5", "must be a path, not 5"),
    ("spool.max_bytes", "0", "must be a whole number"),
    ("health.pause_after", "0", "must be a number from 1"),
    ("alerts.url", '"ftp://x"', "must be a URL that begins http://, https://"),
    ("log.format", '"xml"', "must be one of auto, human, json, not 'xml'"),
    ("web.token", '"short"', "must be 16 to 256 printable ASCII characters"),
]


REDIS_URLS = [
    "redis://h",
    "redis://h/",
    "redis://h/15",
    "redis://u:p@h:1/0?protocol=3&client_name=kasplo",
    "rediss://h/0?ssl_ca_certs=ca.pem&ssl_cert_reqs=required&ssl_check_hostname=true&ssl_certfile=a&ssl_keyfile=b",
    "unix:///run/redis.sock?db=2&username=u&password=p",
]


@pytest.mark.parametrize("url", REDIS_URLS)
def test_a_redis_url_that_is_taken_is_one_that_the_client_takes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("ca.pem", "a", "b"):
        (tmp_path / file).touch()
    with connect(Config.load(environ={"KASPLO_REDIS__URL": url}).redis.url) as client:
        client.connection_pool.make_connection()


class TestBadValues:
    @pytest.mark.parametrize(("key", "given", "message"), BAD)
    def test_are_one_sentence_with_key_and_source(self, key: str, given: str, message: str) -> None:
        section, _, name = key.partition(".")
        found = refused(file=f"[{section}]\n{name} = {given}\n")
        assert found.startswith(f"{key} ")
        assert message in found
        assert found.endswith(" (file config.toml).")

    def test_every_key_is_among_them(self) -> None:
        tried = {key for key, _, _ in BAD}
        untried = {"worker.max_in_flight", "egress.https_only"}  # checked as their namesakes are
        assert tried | untried == {row.key for row in Config().describe()}

    @pytest.mark.parametrize(
        ("variable", "given", "message"),
        [
            ("DELIVERY__DELAY", "soon", "delivery.delay must be a number from 0 to 86400, not 'soon'"),
            ("DELIVERY__DELAY", "", "delivery.delay must be a number from 0 to 86400, not ''"),
            ("EGRESS__ALLOW", "5", "egress.allow must be a list, not 5"),
            ("DELIVERY__QUEUES", "9" * 5000, "delivery.queues must be a whole number from 1 to 64, not"),
            ("DELIVERY__RETRY_DELAYS", "1,2", "delivery.retry_delays must be a list, written as JSON"),
            ("EGRESS__HTTPS_ONLY", "maybe", "egress.https_only must be true or false, not 'maybe'"),
        ],
    )
    def test_in_a_variable_name_the_variable(self, variable: str, given: str, message: str) -> None:
        found = refused(env={f"KASPLO_{variable}": given})
        assert found.startswith(message)
        assert found.endswith(f" (environment variable KASPLO_{variable}).")

    def test_on_the_command_line_say_so(self) -> None:
        assert refused(overrides={"redis.url": "x"}).endswith(" (command line).")
        assert refused(overrides={"delivery.delay": -1}).endswith("not -1 (command line).")

    def test_are_refused_however_a_section_is_made(self) -> None:
        with pytest.raises(ConfigError, match=r"^delivery\.delay must be a number"):
            DeliveryConfig(delay=-1)

    @pytest.mark.parametrize("password", ["hunter2 x", "hunter2/x", "hunter2#x", "hunter2@h:x"])
    def test_never_quote_a_password(self, password: str) -> None:
        message = refused(env={"KASPLO_REDIS__URL": f"redis://:{password}"})
        assert "hunter2" not in message
        assert "hunter2" not in refused(env={"KASPLO_REDIS__URL": f"valkey://:{password}@h"})
        assert "hunter2" not in refused(env={"KASPLO_WEB__TOKEN": password})


class TestValuesThatDoNotGoTogether:
    def test_of_a_section_of_another_kind_say_so(self) -> None:
        with pytest.raises(ConfigError, match="redis must be a RedisConfig"):
            Config(redis=5)  # type: ignore[arg-type]

    def test_no_request_outlives_the_lease(self) -> None:
        message = refused(env={"KASPLO_WORKER__LEASE": "14"})
        assert message.startswith("delivery.timeout (10 s) must be at most worker.lease - 5 s (9 s)")
        assert Config(worker=WorkerConfig(lease=15)).delivery.timeout == 10

    def test_each_queue_has_a_request(self) -> None:
        message = refused(env={"KASPLO_DELIVERY__MAX_IN_FLIGHT": "3"})
        assert message.startswith("delivery.max_in_flight (3) must be at least delivery.queues (4)")


class TestShowing:
    def test_every_key_is_shown_with_its_source(self) -> None:
        config = Config.load(environ={"KASPLO_DELIVERY__DELAY": "5"})
        rows = {row.key: row for row in config.describe()}
        row = rows["delivery.delay"]
        assert (row.value, row.default, row.source) == (5, 30, "environment variable KASPLO_DELIVERY__DELAY")
        assert str(row) == "delivery.delay = 5"
        assert rows["delivery.timeout"].source == "default"
        assert all(row.comment and len(row.comment) < 100 for row in rows.values())

    def test_secrets_are_not_shown(self) -> None:
        config = Config(
            redis=RedisConfig(url="rediss://me:hunter2@h:6380/1?password=hunter2&ssl_cert_reqs=none"),
            alerts=AlertsConfig(url="https://hooks.example.com/services/hunter2"),
            web=WebConfig(token="hunter2-hunter2-hunter2"),
        )
        told = repr(config) + "".join(f"{row}{row!r}" for row in config.describe())
        assert "hunter2" not in told
        rows = {row.key: row.value for row in config.describe()}
        assert rows["redis.url"] == "rediss://***@h:6380/1?password=***&ssl_cert_reqs=none"
        assert rows["alerts.url"] == "https://hooks.example.com/***"
        assert rows["web.token"] == "***"

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("redis://joe:hunter2@host:6379/0", "redis://***@host:6379/0"),
            ("redis://hunter2@host", "redis://***@host"),
            ("redis://:p@ss@hunter2/rd@host/0", "redis://***"),
            ("redis://:hunter2/b@c@host/0", "redis://***"),
            ("redis://joe:123/hunter2@host/0", "redis://***"),
            ("redis://joe?hunter2@host/0", "redis://joe?***"),
            ("redis://:a#hunter2@host/0", "redis://***"),
            ("redis://jo@e:hunter2@host/0", "redis://***@host/0"),
            ("redis://[hunter2/0", "redis://***"),
            ("redis://host?Password=hunter2&db=1", "redis://host?***&db=1"),
            ("unix:///run/redis.sock?db=1&password=hunter2", "unix:///run/redis.sock?db=1&password=***"),
            ("unix://joe:hunter2@/run/redis.sock", "unix://***@/run/redis.sock"),
            (
                "rediss://h/0?ssl_keyfile=/k&ssl_password=hunter2&username=joe",
                "rediss://h/0?ssl_keyfile=/k&ssl_password=***&username=***",
            ),
            ("joe:hunter2@host", "***"),
            ("hunter2@host://host", "***"),
            ("localhost", "localhost"),
            ("embedded", "embedded"),
        ],
    )
    def test_a_url_is_shown_without_its_secrets_even_where_it_cannot_be_read(self, url: str, told: str) -> None:
        assert masked_url(url) == told
        assert "hunter2" not in masked_url(url, path=True)

    @pytest.mark.parametrize("url", ["embedded", "redis://h", "redis://[::1]:6379/0", "unix:///run/redis.sock?db=1"])
    def test_a_url_without_secrets_is_shown_whole(self, url: str) -> None:
        rows = {row.key: row.value for row in Config(redis=RedisConfig(url=url)).describe()}
        assert rows["redis.url"] == url

    @pytest.mark.parametrize("given", [True, 1, 1.5, 30.0, "a", 'q"\\', (1, 2.0), ("a",), (), None])
    def test_values_are_written_as_toml(self, given: object) -> None:
        read: object = tomllib.loads(f"x = {toml(given)}")["x"]
        assert (tuple(read) if isinstance(read, list) else read) == ("" if given is None else given)


def test_a_configuration_is_a_value() -> None:
    config = Config.load(environ={"KASPLO_DELIVERY__DELAY": "5"})
    with pytest.raises(FrozenInstanceError):
        config.delivery.delay = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
    assert copy.deepcopy(config) == config
    assert hash(config) == hash(Config(delivery=DeliveryConfig(delay=5)))
    assert replace(config, delivery=replace(config.delivery, delay=6)).delivery.delay == 6
