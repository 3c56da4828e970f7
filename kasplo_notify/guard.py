"""The egress guard: where the fleet may send requests to.

Operators register URLs on behalf of customers, so a URL is hostile input. Two checks: the URL when it is
registered (spelling, ports, literal addresses), and the address when it is dialled. The second decides: names
change what they resolve to. It sits in the socket factory, which sees every address, literals included.
Sources: RFC 3986 and the WHATWG URL standard (what ends in a number is an IPv4 address), RFC 6761 and its registry of
special-use names.
"""

import json
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeAlias
from urllib.parse import quote

from kasplo_notify.addresses import Address, Network, embedded, parse, special
from kasplo_notify.config_sections import EgressConfig
from kasplo_notify.errors import EndpointError, quoted, shown

MAX_URL_CHARACTERS = 2048

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\[\]/?#]*\]|[^\[\]:/?#]*)(?P<port>:[^/?#]*)?(?P<rest>[/?].*)?",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}")
# Percent-encoded, and the forms of : and @ that a resolver would not take for them.
_HIDING = frozenset("%@:\uff20\ufe6b\uff1a\ufe55")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_CANONICAL_V4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# What RFC 3986 lets stand in a path or query; anything else is percent-encoded.
_PATH_SAFE = "/?:@!$&'()*+,;=-._~%"

_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
# So many networks of egress.allow are repeated in a message.
_LISTED = 2
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
# Names that only resolve inside somebody's network, as far as they are known: RFC 6762 with its appendix G, RFC 8375,
# what ICANN never delegates (.corp, .home, .internal, .mail) or was warned of (SAC 045), and what software and routers
# make up. Anybody may make up more: what a name resolves to decides when it is dialled.
_PRIVATE_SUFFIXES = (
    *("local", "home.arpa", "corp", "home", "internal", "intranet", "lan", "localdomain", "mail", "private"),
    *("belkin", "domain", "intra", "localnet", "router", "workgroup"),
    *("fritz.box", "mshome.net", "speedport.ip"),
    *("svc", "cluster.local", "svc.cluster", "default", "kube-system"),
    *("consul", "docker", "incus", "lxd", "novalocal", "openstacklocal", "podman"),
)
# Never a server in DNS: RFC 6761 (.invalid), RFC 7686 (.onion), RFC 9476 (.alt), and the Internet's own infrastructure
# (.arpa: resolver.arpa, service.arpa, ipv4only.arpa, reverse zones). RFC 6761 wants .test and .example to be treated
# like any other name.
_DEAD_SUFFIXES = ("alt", "arpa", "invalid", "onion")

_AddrInfo: TypeAlias = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class AddressBlocked(OSError):
    """The guard refused to dial an address. The message says which, and what it is."""

    # Not the system's: where several addresses fail, happy eyeballs leaves nothing of an error but this number
    # and the text.
    ERRNO = 10_013

    def __init__(self, message: str) -> None:
        super().__init__(self.ERRNO, message)


class EgressGuard:
    """Decides by `egress.*` of the configuration.

    Of the networks in `egress.allow` and `egress.deny` that hold an address the narrowest one decides; of two
    equal ones, deny. So "nothing but" (deny 0.0.0.0/0, allow some) and "all but" can both be said.

    Args:
        config: The section.
        in_worker: Whether a worker decides, which may be configured otherwise than whoever reads its words.

    Attributes:
        relied_on_allow: Whether an address was permitted only because of egress.allow.
    """

    def __init__(self, config: EgressConfig, *, in_worker: bool = False) -> None:
        self.relied_on_allow = False
        self._configured = config.allow
        self._who = "refused by the worker's egress settings: " if in_worker else ""
        self._where = "where `up` or `worker` runs, and start that again" if in_worker else "here and for the workers"
        self._allow = tuple(ip_network(block) for block in config.allow)
        self._deny = tuple(ip_network(block) for block in config.deny)
        self._deny_ports = frozenset(config.deny_ports)
        self._https_only = config.https_only
        self._loopback_allowed = any(
            _narrowest(self._allow, address) >= 0 for address in (IPv4Address("127.0.0.1"), IPv6Address("::1"))
        )
        # Where nothing but this machine is allowed no other name can resolve to it.
        self._networks_allowed = not all(network.is_loopback for network in self._allow)

    def check_url(self, url: object) -> str:
        """The URL as it is stored and sent: lower-case host, IDN as A-labels, no default port, a path.

        No name is resolved here.

        Raises:
            EndpointError: It is not an http or https URL, or one that the guard would never dial.
        """
        if type(url) is not str or not url:
            raise EndpointError("the URL is missing; it begins with https://")
        scheme, host, port, rest = _split(url)
        if scheme == "http" and self._https_only:
            raise self._refused("the URL must begin with https:// (egress.https_only is set)")
        default = 443 if scheme == "https" else 80
        number = default if port is None else _port(port)
        if host.startswith("["):
            host = self._literal_v6(host, number)
        else:
            host = _ascii(host)
            if _NUMERIC.fullmatch(host.rpartition(".")[2]):
                self._literal_v4(host, number)
            else:
                self._name(host, number)
        authority = host if number == default else f"{host}:{number}"
        normal = f"{scheme}://{authority}{_path(rest)}"
        if len(normal) > MAX_URL_CHARACTERS:
            raise EndpointError(f"the URL is over {MAX_URL_CHARACTERS} characters")
        return normal

    def check_address(self, address: str, port: int) -> None:
        """Decide whether `address` (as `getaddrinfo` writes it) may be dialled.

        Raises:
            AddressBlocked: It may not.
        """
        parsed = parse(address)
        if parsed is None:
            raise self._blocked(f"{shown(address)} is not an IP address")
        allowed = self._check(parsed, address)
        for inner in embedded(parsed):
            # Both have to pass: a network of NAT64 addresses that is allowed must not open 169.254.169.254.
            self._check(inner, address)
        if port in self._deny_ports and not allowed:
            raise self._blocked(f"port {port} is on the list egress.deny_ports")
        if allowed and (port in self._deny_ports or special(parsed)):
            self.relied_on_allow = True

    def socket_factory(self, addr_info: _AddrInfo) -> socket.socket:
        """A non-blocking socket for `aiohttp.TCPConnector`, which asks for one per address that it dials.

        Raises:
            AddressBlocked: The guard refuses the address.
        """
        family, kind, protocol, _, target = addr_info
        self.check_address(str(target[0]), int(str(target[1])))
        made = socket.socket(family=family, type=kind, proto=protocol)
        made.setblocking(False)  # noqa: FBT003 - the standard library wants it so
        return made

    def _check(self, address: Address, written: str) -> bool:
        """Whether egress.allow decides for `address`. Raises AddressBlocked if anything decides against."""
        allowed, denied = _narrowest(self._allow, address), _narrowest(self._deny, address)
        name = written if written == str(address) else f"{written} ({address})"
        if denied >= 0 and denied >= allowed:
            raise self._blocked(f"{name} is in a network of egress.deny")
        if allowed >= 0:
            return True
        if what := special(address):
            network = _LOOPBACK[address.version] if what == "loopback" else str(ip_network(address))
            remedy = self._remedy(network) if what in ("loopback", "private") else "egress.allow can permit it"
            raise self._blocked(f"{name} is {what}; {remedy}")
        return False

    def _blocked(self, reason: str) -> AddressBlocked:
        return AddressBlocked(self._who + reason)

    def _refused(self, reason: str) -> EndpointError:
        return EndpointError(self._who + reason)

    def _remedy(self, *networks: str) -> str:
        """What to set to permit these networks, as a file and as the environment have it."""
        if len(self._configured) > _LISTED:
            return f"to permit it, add {' and '.join(networks)} to egress.allow {self._where}"
        value = json.dumps([*self._configured, *networks])
        return f"to permit it, set egress.allow = {value} (KASPLO_EGRESS__ALLOW='{value}') {self._where}"

    def _literal_v6(self, host: str, port: int) -> str:
        try:
            address = IPv6Address(host[1:-1])
        except ValueError as error:
            raise EndpointError("what the URL has in [ ] is not an IPv6 address") from error
        if address.scope_id is not None:
            raise EndpointError("an IPv6 address with a zone (%) cannot be an endpoint")
        self._literal(str(address), port)
        return f"[{address}]"

    def _literal_v4(self, host: str, port: int) -> None:
        # 0x7f.1, 0177.0.0.1 and 2130706433 are all 127.0.0.1 to some resolver, and something else to another.
        if not _CANONICAL_V4.fullmatch(host) or parse(host) is None:
            raise EndpointError(f"{_named(host)} is not a host name; write an IPv4 address as four decimal numbers")
        self._literal(host, port)

    def _literal(self, address: str, port: int) -> None:
        try:
            self.check_address(address, port)
        except AddressBlocked as error:
            raise EndpointError(f"{'' if self._who else 'the URL is refused: '}{error.strerror}") from error

    def _name(self, host: str, port: int) -> None:
        labels = host.split(".")
        if len(host) > 253 or not all(_LABEL.fullmatch(label) and _is_label(label) for label in labels):
            raise EndpointError(f"{_named(host)} is not a host name")
        if _under(host, _DEAD_SUFFIXES) and not _under(host, _PRIVATE_SUFFIXES):
            raise EndpointError(f"{host} never resolves; give the name that the server has in DNS")
        if host in _LOOPBACK_NAMES or _under(host, ("localhost",)):
            if not self._loopback_allowed:
                remedy = self._remedy(*_LOOPBACK.values())
                raise self._refused(f"{host} is this machine; {remedy}")
            return
        # What a name resolves to has to be in egress.allow when it is dialled: here it is not known.
        if self._networks_allowed:
            return
        if len(labels) == 1 or _under(host, _PRIVATE_SUFFIXES):
            place = f"egress.allow {self._where}"
            raise self._refused(f"{host} is a name inside a private network; put its network into {place}")
        if port in self._deny_ports:
            raise self._refused(f"port {port} is on the list egress.deny_ports")


def _split(url: str) -> tuple[str, str, str | None, str]:
    if len(url) > MAX_URL_CHARACTERS:
        raise EndpointError(f"the URL is over {MAX_URL_CHARACTERS} characters")
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise EndpointError("the URL is not valid Unicode") from error
    if any(character <= " " or character == "\\" or 0x7F <= ord(character) <= 0xA0 for character in url):
        raise EndpointError("the URL has a space, a control character or a backslash in it")
    if "#" in url:
        raise EndpointError("the URL has a fragment (#), which is never sent; leave it out")
    scheme, separator, after = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        # Of what has no scheme nothing is shown: it may be USER:PASS@HOST.
        given = f", not {quoted(f'{scheme}://')}" if separator and _SCHEME.fullmatch(scheme) else ""
        raise EndpointError(f"the URL must begin with https:// or http://{given}")
    if "@" in re.split(r"[/?]", after, maxsplit=1)[0]:
        raise EndpointError("the URL has credentials in it; give them with --basic USER:PASS")
    match = _URL.fullmatch(url)
    if match is None or not match["host"]:
        raise EndpointError("the URL has no valid host and port; write it as https://HOST:PORT/PATH")
    return match["scheme"].lower(), match["host"], match["port"], match["rest"] or ""


def _port(text: str) -> int:
    digits = text[1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        # A password that was put before the host is read as a port when a / or ? in it is not percent-encoded.
        raise EndpointError(
            "the URL has no port from 1 to 65535 where one should be; credentials are given with --basic USER:PASS"
        )
    return int(digits)


def _named(host: str) -> str:
    """A host as a message may name it: not where it may hold credentials, their : and @ hidden from us."""
    return "what the URL has for a host" if set(host) & _HIDING else shown(host)


def _ascii(host: str) -> str:
    """Lower-case, without the root's dot, IDN in A-labels: the only form that anything is compared with."""
    if not host.isascii():
        import idna  # noqa: PLC0415 - its tables are 300 kB, and few hosts need them

        try:
            # UTS 46 maps look-alikes first: full-width digits, circled letters, ideographic full stops.
            mapped = idna.uts46_remap(host, std3_rules=True)
            host = mapped if mapped.isascii() else idna.encode(mapped).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise EndpointError(f"{_named(host)} is not a valid international host name") from error
    return host.lower().removesuffix(".")


def _is_label(label: str) -> bool:
    if not label.startswith("xn--"):
        return True
    try:
        return bool(label[4:].encode().decode("punycode"))
    except UnicodeError:
        return False


def _path(rest: str) -> str:
    if _BAD_ESCAPE.search(rest):
        raise EndpointError("the URL has a % that two hexadecimal digits do not follow; write it as %25")
    return quote(rest if rest.startswith("/") else f"/{rest}", safe=_PATH_SAFE)


def _under(host: str, suffixes: Iterable[str]) -> bool:
    return any(host == suffix or host.endswith(f".{suffix}") for suffix in suffixes)


def _narrowest(networks: Iterable[Network], address: Address) -> int:
    """The prefix length of the narrowest of `networks` that holds `address`; -1 when none does."""
    version = 4 if isinstance(address, IPv4Address) else 6
    return max((each.prefixlen for each in networks if each.version == version and address in each), default=-1)
