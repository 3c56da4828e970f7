"""Why a request got no answer: from exceptions to a stable word and a sentence for a postmaster."""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Iterator

from aiohttp import ClientConnectorCertificateError, ClientConnectorDNSError, ClientConnectorError, InvalidURL
from aiohttp.http import HttpProcessingError

from kasplo_notify.guard import AddressBlocked
from kasplo_notify.outcome import Failure

_ERRNO = re.compile(r"\[Errno (\d{1,6})\]")
_BLOCKED = re.compile(rf"\[Errno {AddressBlocked.ERRNO}\] (.*?)(?:, \[Errno |$)")
# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_CERTIFICATE = {
    9: "certificate is not valid yet",
    10: "certificate expired",
    18: "certificate is self-signed",
    19: "certificate is signed by an authority that is not trusted",
    20: "certificate is signed by an authority that is not trusted, or an intermediate one is missing",
    21: "certificate is signed by an authority that is not trusted, or an intermediate one is missing",
    23: "certificate was revoked",
    62: "certificate is for another name",
    64: "certificate is for another address",
}
_REFUSED = "the server does not accept the client certificate"
# Parts of OpenSSL's reason, in the order in which they are tried.
_TLS = (
    ("UNSUPPORTED_PROTOCOL", "the server offers no TLS version from 1.2 on"),
    ("PROTOCOL_VERSION", "the server offers no TLS version from 1.2 on"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS on this port"),
    ("RECORD_LAYER_FAILURE", "the server does not speak TLS on this port"),
    ("HTTP_REQUEST", "the server does not speak TLS on this port"),
    ("CERTIFICATE_REQUIRED", "the server wants a client certificate"),
    ("UNKNOWN_CA", f"{_REFUSED}: its authority is not known there"),
    ("CERTIFICATE_EXPIRED", f"{_REFUSED}: it has expired"),
    ("CERTIFICATE_REVOKED", f"{_REFUSED}: it was revoked"),
    ("ALERT_BAD_CERTIFICATE", _REFUSED),
    ("ALERT_UNSUPPORTED_CERTIFICATE", _REFUSED),
    ("ALERT_CERTIFICATE_UNKNOWN", _REFUSED),
    ("UNRECOGNIZED_NAME", "the server has no certificate for this name"),
    ("NO_CIPHERS", "the server offers no cipher that is safe"),
    ("HANDSHAKE_FAILURE", "the server refused the TLS handshake"),
    ("DH_KEY_TOO_SMALL", "the server's TLS keys are too short"),
    ("EE_KEY_TOO_SMALL", "the server's TLS keys are too short"),
)
_TLS_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
# In the order in which they are told when several addresses failed, each in its way.
_SYSTEM: dict[int, tuple[Failure, str]] = {
    errno.ECONNREFUSED: ("refused", "connection refused"),
    errno.ECONNRESET: ("reset", "connection reset before an answer"),
    errno.ECONNABORTED: ("reset", "connection reset before an answer"),
    errno.EPIPE: ("reset", "connection closed before an answer"),
    errno.ETIMEDOUT: ("connect_timeout", "the server does not answer on this address"),
    errno.EHOSTUNREACH: ("unreachable", "no route to the server"),
    errno.EHOSTDOWN: ("unreachable", "no route to the server"),
    errno.ENETUNREACH: ("unreachable", "no route to the server's network"),
    errno.EADDRNOTAVAIL: ("worker", "this machine has no local port left to connect from"),
    errno.EACCES: ("unreachable", "a local firewall forbids the connection"),
    errno.EPERM: ("unreachable", "a local firewall forbids the connection"),
    errno.EMFILE: ("worker", "this worker has no file descriptors left; raise its limit (ulimit -n)"),
    errno.ENFILE: ("worker", "this machine has no file descriptors left"),
    errno.EAGAIN: ("worker", "this worker can start no more threads; raise its limit (ulimit -u)"),
    errno.ENOBUFS: ("worker", "this machine has no memory left for a connection"),
    errno.ENOMEM: ("worker", "this machine has no memory left for a connection"),
}

# What it helps to close something for.
NO_FILES = (_SYSTEM[errno.EMFILE], _SYSTEM[errno.ENFILE])


def connect_failure(error: BaseException, seconds: float) -> tuple[Failure, str]:
    """Why no connection came about within `seconds`."""
    for each in _causes(error):
        if match := _BLOCKED.search(str(each)):
            return "blocked", match[1]
    if isinstance(error, ClientConnectorDNSError):
        return _dns(error.os_error)
    if isinstance(error, ClientConnectorCertificateError):
        return "tls", _certificate(error.certificate_error)
    if (tls := _tls_cause(error)) is not None:
        return "tls", _tls(tls, "the TLS handshake failed")
    # A TimeoutError with an errno is the kernel's, and told like any other of its answers.
    if isinstance(error, TimeoutError) and getattr(error, "errno", None) is None:
        return "connect_timeout", f"no connection within {round(seconds, 3):g} s"
    if isinstance(error, InvalidURL | UnicodeError):
        return "blocked", "the URL has no host that could be dialled"
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    return _system(cause, "the connection could not be opened")


def exchange_failure(error: BaseException, *, began: bool, seconds: float) -> tuple[Failure, str]:
    """Why no answer came over an open connection; `began` tells whether any byte of one did."""
    if isinstance(error, asyncio.TimeoutError):
        what = "the answer's headers did not end" if began else "no answer"
        return "timeout", f"{what} within {seconds:g} s"
    if isinstance(error, HttpProcessingError):
        return "protocol", _not_http(error)
    # With TLS 1.3 a client learns only now that its handshake was not taken. Numbers of these are not the system's.
    tls = _tls_cause(error)
    if tls is not None and not isinstance(tls, _TLS_ENDS):
        return "tls", _tls(tls, "the TLS connection broke before an answer")
    if began:
        return "reset", "connection closed in the middle of the answer's headers"
    return _system(error, "connection closed before an answer", otherwise="reset")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it stands for: aiohttp and happy eyeballs wrap what the guard and TLS raise."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, getattr(each, "os_error", None)]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    for each in _causes(error):
        if isinstance(each, ssl.SSLError) and not isinstance(each, ClientConnectorError):
            return each
    return None


def _dns(error: OSError) -> tuple[Failure, str]:
    # The numbers of a gaierror are its own. Any other error is the system's, and may say that nothing was looked up.
    if not isinstance(error, socket.gaierror):
        told = _system(error, "name does not resolve")
        return told if told[0] == "worker" else ("dns", "name does not resolve")
    if error.errno == socket.EAI_MEMORY:
        return _SYSTEM[errno.ENOMEM]
    if error.errno == socket.EAI_AGAIN:
        return "dns", "name servers do not answer for this name"
    return "dns", "name does not resolve"


def _certificate(error: Exception) -> str:
    code = getattr(error, "verify_code", None)
    text = _CERTIFICATE.get(code) if isinstance(code, int) else None
    if text is not None:
        return text
    message = getattr(error, "verify_message", "")
    return f"certificate is not valid: {message}" if message else "certificate is not valid"


def _tls(error: ssl.SSLError, otherwise: str) -> str:
    if isinstance(error, _TLS_ENDS):
        return "the server closed the connection during the TLS handshake"
    reason = (getattr(error, "reason", None) or str(error)).upper().replace(" ", "_")
    return next((text for part, text in _TLS if part in reason), otherwise)


def _system(error: BaseException, fallback: str, *, otherwise: Failure = "other") -> tuple[Failure, str]:
    # Errors of several addresses come as one, with their numbers in its text.
    numbers = {getattr(error, "errno", None), *map(int, _ERRNO.findall(str(error)))}
    known = next((told for number, told in _SYSTEM.items() if number in numbers), None)
    if known is not None:
        return known
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "reset", "connection reset before an answer"
    return otherwise, fallback


def _not_http(error: HttpProcessingError) -> str:
    # aiohttp's parsers differ between the compiled and the Python one; their messages agree on these words.
    message = str(error.message).lower()
    if "too many" in message:
        return "the answer has too many headers"
    if "too large" in message or "more than" in message:
        return "the answer's headers are too long"
    return "the answer is not HTTP"
