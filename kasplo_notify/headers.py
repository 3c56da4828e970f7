"""Request headers that an operator may give an endpoint, and HTTP Basic credentials.

A header must not be able to change where a request ends (framing), which server answers it (Host), what a
proxy does with it (hop-by-hop), what we promise about it (our own), or what a cloud's metadata service thinks
of it.
"""

import re
from collections.abc import Iterable

from kasplo_notify.errors import EndpointError, shown

MAX_NAME_BYTES = 128
MAX_VALUE_BYTES = 1024
MAX_TOTAL_BYTES = 8192

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Field values: printable ASCII. RFC 9110 calls everything above obsolete, and receivers disagree about it.
_VALUE = re.compile(r"[ -~]*")

_OURS = frozenset({"accept", "accept-encoding", "content-encoding", "content-type", "user-agent"})
_FRAMING = frozenset({"content-length", "expect", "host", "http2-settings", "transfer-encoding"})
# RFC 9110, section 7.6.1, and what proxies treat likewise.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    }
)
_OUR_PREFIXES = ("webhook-", "x-kasplo-")
# AWS, Alibaba, Google (both), IBM, Azure and Linode guard their metadata services by a header: with it, an
# address that slipped through the egress guard would hand out credentials.
_METADATA = frozenset(
    {"metadata", "metadata-flavor", "metadata-token", "x-google-metadata-request", "x-identity-header"}
)
_METADATA_PREFIXES = ("x-aws-ec2-metadata-", "x-aliyun-ecs-metadata-")
# What Oracle's (IMDSv2) asks for is a header that everybody uses, with this value.
_ORACLE = re.compile(r"bearer +oracle", re.IGNORECASE)


def parse_header(line: str) -> tuple[str, str]:
    """Split `Name: value` as it is given on the command line.

    Raises:
        EndpointError: There is no colon in it, or the header is not one that `check_headers` accepts.
    """
    name, colon, value = line.partition(":")
    if not colon:
        raise EndpointError("a header is written 'Name: value'; there is no colon in it")
    return check_headers([(name, value.strip(" \t"))])[0]


def check_headers(pairs: Iterable[Iterable[object]]) -> tuple[tuple[str, str], ...]:
    """The headers of an endpoint.

    Raises:
        EndpointError: A name is not a token, is reserved or given twice; a value has characters outside
            printable ASCII, or opens a metadata service; a value is over 1 KiB or all of them over 8 KiB.
    """
    checked: list[tuple[str, str]] = []
    seen: set[str] = set()
    total = 0
    for pair in pairs:
        name, value = pair
        name = _check_header_name(name)
        if type(value) is not str:
            raise EndpointError(f"the value of the header {name} is a string, not {shown(value)}")
        if not _VALUE.fullmatch(value):
            raise EndpointError(f"the value of the header {name} has characters outside printable ASCII; encode them")
        if len(value) > MAX_VALUE_BYTES:
            raise EndpointError(f"the value of the header {name} is over {MAX_VALUE_BYTES} bytes")
        if value != value.strip(" "):
            raise EndpointError(f"the value of the header {name} begins or ends with a space")
        if name.lower() == "authorization" and _ORACLE.fullmatch(value):
            raise EndpointError(
                "Authorization: Bearer Oracle opens cloud metadata services and is refused; choose another token"
            )
        if name.lower() in seen:
            raise EndpointError(f"the header {name} is given twice; give it once")
        seen.add(name.lower())
        total += len(name) + len(value) + len(": \r\n")
        checked.append((name, value))
    if total > MAX_TOTAL_BYTES:
        raise EndpointError(f"the headers are {total} bytes together; {MAX_TOTAL_BYTES} are allowed")
    return tuple(checked)


def check_basic(credentials: object) -> str:
    """`user:password` of HTTP Basic authentication (RFC 7617).

    Raises:
        EndpointError: There is no colon in it, it has control characters, or it is over 512 bytes of UTF-8.
    """
    # The message must not repeat what may be a password.
    if type(credentials) is not str or ":" not in credentials:
        raise EndpointError("HTTP Basic credentials are written user:password")
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in credentials):
        raise EndpointError("the HTTP Basic credentials have a control character in them")
    try:
        encoded = credentials.encode()
    except UnicodeEncodeError as error:
        raise EndpointError("the HTTP Basic credentials are not valid Unicode") from error
    if len(encoded) > 512:
        raise EndpointError("the HTTP Basic credentials are over 512 bytes")
    return credentials


def _check_header_name(name: object) -> str:
    if type(name) is not str:
        raise EndpointError(f"a header's name is a string, not {shown(name)}")
    if len(name) > MAX_NAME_BYTES:
        raise EndpointError(f"a header name has at most {MAX_NAME_BYTES} characters, and one has {len(name)}")
    if not _TOKEN.fullmatch(name):
        # From the first character on that cannot be in a name it may be a value.
        begun = _TOKEN.match(name)
        which = f" that begins with {shown(begun[0])}" if begun else ""
        raise EndpointError(
            f"the header name{which} has other characters in it than letters, digits and -_.; "
            "a header is written 'Name: value'"
        )
    # Behind CGI and WSGI gateways X_Kasplo_Event_Type and X-Kasplo-Event-Type are one header.
    canonical = name.lower().replace("_", "-")
    if canonical in _OURS or canonical.startswith(_OUR_PREFIXES):
        raise EndpointError(f"the header {name} is set by kasplo-notify itself; leave it out")
    if canonical in _FRAMING:
        raise EndpointError(f"the header {name} follows from the URL and the body; leave it out")
    if canonical in _HOP_BY_HOP:
        raise EndpointError(f"the header {name} belongs to one connection, not to an endpoint; leave it out")
    if canonical in _METADATA or canonical.startswith(_METADATA_PREFIXES):
        raise EndpointError(f"the header {name} opens cloud metadata services and is refused; choose another name")
    return name
