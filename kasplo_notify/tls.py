"""TLS towards an endpoint: whose certificates are believed, and which one of our own is shown.

An endpoint may bring authorities of its own and a client certificate with its key, as PEM (RFC 7468). They are kept
as text in its record, because workers run on other machines than the command that read the files. No message repeats
anything of them.
"""

import base64
import hashlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kasplo_notify.errors import EndpointError

# A certificate has 1 to 3 KiB. A whole bundle of a system's authorities has 200: leave the option out for these.
MAX_PEM_BYTES = 65_536

_CERTIFICATE = "CERTIFICATE"
_KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_UTC_TIME = 0x17
_VERSION = 0xA0


@dataclass(frozen=True, slots=True)
class Tls:
    """What an endpoint brings along, as PEM that the checks below have accepted.

    Attributes:
        ca: Authorities that are trusted instead of the system's; None for the system's.
        cert: Client certificate, and after it those that lead to its authority; None for none.
        key: Its private key.
    """

    ca: str | None = field(default=None, repr=False)
    cert: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What people tell certificates apart by.

    Attributes:
        sha256: Its fingerprint, in lower-case hexadecimal.
        not_before: Unix seconds.
        not_after: Unix seconds.
    """

    sha256: str
    not_before: int
    not_after: int


def context_of(tls: Tls | None = None) -> ssl.SSLContext:
    """A context that verifies certificate and name of a server and speaks TLS 1.2 or newer.

    With the system's authorities it takes 24 ms and 850 kB, with an endpoint's own 0.4 ms and 9 kB.

    Raises:
        OSError: No file could be opened; an `ssl.SSLError` for what the checks below would have refused.
    """
    ca = None if tls is None else tls.ca
    # Certificates and names are verified by default. `ssl.create_default_context` would write the keys of every session
    # to the file that SSLKEYLOGFILE names in the environment.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Only the other side would begin one, and each costs us more than it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if ca is not None:
        # What an operator names is trusted as it is, be it an intermediate authority or the server's own certificate.
        # VERIFY_X509_STRICT is not set: many a house's authority lacks extensions that it asks for.
        context.load_verify_locations(cadata=ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
        if sys.version_info >= (3, 13):
            # As Python has it for them, from that version on.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if tls is not None and tls.cert is not None and tls.key is not None:
        _load(context, tls.cert, tls.key)
    return context


def check_authorities(pem: object) -> str:
    """The certificates in what was read from a CA file, and nothing else of it.

    Raises:
        EndpointError: There is none, one is not readable, or it is too large.
    """
    return _check_certificates("the CA file", pem)


def check_certificate(pem: object) -> str:
    """The client certificate, and those after it, in what was read from its file, and nothing else of it.

    Raises:
        EndpointError: There is none, one is not readable, or it is too large.
    """
    return _check_certificates("the client certificate", pem)


def check_key(pem: object) -> str:
    """The private key in what was read from its file, and nothing else of it; `check_pair` looks into it.

    Raises:
        EndpointError: There is none, it is encrypted or not base64, or it is too large.
    """
    what = "the client key"
    for label, lines in _blocks(_text(what, pem)):
        if label == "ENCRYPTED PRIVATE KEY" or any(line.startswith("Proc-Type:") for line in lines):
            raise EndpointError(f"{what} is encrypted, and workers know no passphrase: decrypt it with `openssl pkey`")
        if label in _KEYS:
            text = base64.b64encode(_decoded(what, lines)).decode()
            rows = (text[at : at + 64] for at in range(0, len(text), 64))
            return "\n".join((f"-----BEGIN {label}-----", *rows, f"-----END {label}-----", ""))
    raise EndpointError(f"{what} has no private key in PEM (-----BEGIN PRIVATE KEY-----)")


def check_pair(cert: str | None, key: str | None) -> None:
    """Refuse a client certificate and a key that do not belong together.

    Raises:
        EndpointError: One of them is missing, OpenSSL cannot use them, or the key is another one's.
        OSError: No file could be opened.
    """
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise EndpointError("a client certificate and its key go together: give both, --client-cert and --client-key")
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise EndpointError(
                "the client key does not belong to the client certificate, which has to be the first in its file"
            ) from None
        raise EndpointError(
            f"OpenSSL cannot use the client certificate with its key ({error.reason or 'no reason given'})"
        ) from None


def certificates(pem: str) -> list[Certificate]:
    """The certificates in a PEM that was checked, in their order."""
    return [_read(der) for der in _ders("the stored PEM", pem)]


def _check_certificates(what: str, pem: object) -> str:
    ders = _ders(what, _text(what, pem))
    if not ders:
        raise EndpointError(
            f"{what} has no certificate in PEM (-----BEGIN CERTIFICATE-----); `openssl x509` converts other formats"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for number, der in enumerate(ders, 1):
        try:
            context.load_verify_locations(cadata=der)
            _read(der)
        except (ssl.SSLError, ValueError, IndexError):
            raise EndpointError(f"certificate {number} of {what} is not readable") from None
    return "".join(map(ssl.DER_cert_to_PEM_cert, ders))


def _text(what: str, pem: object) -> str:
    if type(pem) is not str:
        raise EndpointError(f"{what} is the text of a PEM file")
    if len(pem) > MAX_PEM_BYTES:
        raise EndpointError(f"{what} is over {MAX_PEM_BYTES // 1024} KiB")
    return pem


def _ders(what: str, pem: str) -> list[bytes]:
    what = f"a certificate of {what}"
    return [_decoded(what, lines) for label, lines in _blocks(pem) if label == _CERTIFICATE]


def _decoded(what: str, lines: list[str]) -> bytes:
    try:
        return base64.b64decode("".join(lines), validate=True)
    except ValueError:
        raise EndpointError(f"{what} is not base64") from None


def _blocks(pem: str) -> Iterator[tuple[str, list[str]]]:
    """Label and lines of each block. Whatever stands between them is explanation (RFC 7468, section 5.2)."""
    label, lines = "", list[str]()
    for line in map(str.strip, pem.splitlines()):
        if line.startswith("-----BEGIN ") and line.endswith("-----"):
            label, lines = line[11:-5], []
        elif label and line == f"-----END {label}-----":
            yield label, lines
            label = ""
        elif label:
            lines.append(line)


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    with _file(cert + key) as path:
        # With a passphrase, if a wrong one, OpenSSL does not ask for it at the terminal.
        context.load_cert_chain(path, password="")


@contextmanager
def _file(pem: str) -> Iterator[str]:
    """The path of a file with this text: OpenSSL reads keys from files only. On Linux it is in memory, on no disk."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("kasplo-notify"), "w", encoding="ascii") as file:
            file.write(pem)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="kasplo-notify-") as file:
            file.write(pem)
            file.flush()
            yield file.name


# --- DER: as little of it as says how long a certificate is valid ------------------------------------------------


def _read(der: bytes) -> Certificate:
    """A certificate (RFC 5280, section 4.1). ValueError or IndexError for what is none."""
    at, _ = _content(der, 0)
    at, _ = _content(der, at)
    # The version may be missing; then serialNumber, signature and issuer.
    for _ in range(4 if der[at] == _VERSION else 3):
        _, at = _content(der, at)
    at, _ = _content(der, at)
    not_before, at = _time(der, at)
    not_after, _ = _time(der, at)
    return Certificate(hashlib.sha256(der).hexdigest(), not_before, not_after)


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    length, at = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    return at, at + length


def _time(der: bytes, at: int) -> tuple[int, int]:
    """A Time in Unix seconds (RFC 5280, section 4.1.2.5), and where it ends."""
    begin, end = _content(der, at)
    text = der[begin:end].decode("ascii")
    if der[at] == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()), end
