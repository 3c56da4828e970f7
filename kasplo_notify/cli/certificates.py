"""The CA file and the client certificate of an endpoint: read, shown without the key, and warned of when expired."""

from typing import Any, Final

from kasplo_notify.cli.errors import Refused
from kasplo_notify.cli.moments import iso, local
from kasplo_notify.cli.text import MASK, Cell
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.errors import quoted
from kasplo_notify.quantities import counted
from kasplo_notify.tls import MAX_PEM_BYTES, Certificate, certificates

FILES: Final = {"ca": "--ca-file", "client_cert": "--client-cert", "client_key": "--client-key"}


def read_pem(option: str, path: str) -> str:
    """The text of a file, up to what the checks refuse as too large.

    Raises:
        Refused: It cannot be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path would not say what is wrong with one that has a NUL
            # Every byte is some character; a file in another format is refused for what it does not contain.
            return file.read(MAX_PEM_BYTES + 1).decode("latin-1")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "that is no path"
        raise Refused(f"The file {quoted(path)} of {option} cannot be read: {reason}.") from None


def tls_rows(endpoint: Endpoint, now_s: float) -> list[tuple[str, Cell]]:
    """What an endpoint brings along for TLS, for people; nothing of what it does not."""
    rows: list[tuple[str, Cell]] = []
    if endpoint.ca is not None:
        own = certificates(endpoint.ca)
        first_end = min(own, key=lambda each: each.not_after)
        rows.append(("authorities", f"{counted(len(own), 'certificate')} of its own, {_ends(first_end, now_s)}"))
    if endpoint.client_cert is not None:
        shown, *_ = certificates(endpoint.client_cert)
        rows += [("client cert", f"sha256 {shown.sha256}, {_ends(shown, now_s)}"), ("client key", MASK)]
    return rows


def tls_json(endpoint: Endpoint) -> dict[str, Any]:
    """What an endpoint brings along for TLS, for programs."""
    authorities = None if endpoint.ca is None else [_json(each) for each in certificates(endpoint.ca)]
    cert = None if endpoint.client_cert is None else _json(certificates(endpoint.client_cert)[0])
    return {"ca": authorities, "client_cert": cert, "client_key": None if endpoint.client_key is None else MASK}


def expiry_warnings(endpoint: Endpoint, now_s: float) -> list[str]:
    """A sentence for each certificate of an endpoint that is not valid at `now_s` (Unix seconds)."""
    named = [("a certificate of the CA file", each) for each in certificates(endpoint.ca or "")]
    named += [("the client certificate", each) for each in certificates(endpoint.client_cert or "")[:1]]
    return [
        f"Warning: {what} {'expired on' if each.not_after < now_s else 'is not valid before'} "
        f"{local((each.not_after if each.not_after < now_s else each.not_before) * 1000)}."
        for what, each in named
        if not each.not_before <= now_s <= each.not_after
    ]


def _ends(each: Certificate, now_s: float) -> str:
    return f"{'expired' if each.not_after < now_s else 'until'} {local(each.not_after * 1000)}"


def _json(each: Certificate) -> dict[str, Any]:
    return {"sha256": each.sha256, "not_before": iso(each.not_before * 1000), "not_after": iso(each.not_after * 1000)}
