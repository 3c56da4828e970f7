"""What an endpoint may bring along for TLS: which PEM is taken, what is kept of it, and what is said of the rest."""

import hashlib
import os
import pty
import ssl
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import CertificateBuilder, Name, NameAttribute, load_pem_x509_certificate
from cryptography.x509.oid import NameOID

from kasplo_notify.config import Config
from kasplo_notify.endpoint import Endpoint
from kasplo_notify.endpoint_checks import change_endpoint, make_endpoint
from kasplo_notify.errors import EndpointError
from kasplo_notify.tls import MAX_PEM_BYTES, Tls, certificates, check_authorities, check_key, check_pair, context_of

CONFIG = Config()
URL = "https://hooks.example.com/in"
AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes().decode()
LEAF = AUTHORITY.issue_cert("client.example")
CERT = LEAF.cert_chain_pems[0].bytes().decode()
KEY = LEAF.private_key_pem.bytes().decode()
OTHER_KEY = AUTHORITY.issue_cert("other.example").private_key_pem.bytes().decode()
LOADED = load_pem_private_key(KEY.encode(), None)
ENCRYPTED = LOADED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
LEGACY = LOADED.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x")).decode()
SECRET_LINE = KEY.splitlines()[1]


def make(**values: Any) -> Endpoint:
    return make_endpoint(CONFIG, **({"name": "crm", "url": URL, "secret": "none"} | values))


def test_the_pem_is_kept_in_the_record_and_nothing_else_of_the_files() -> None:
    combined = f"Bag Attributes\n{KEY}subject=client\r\n{CERT}{CA}trailing"
    made = make(ca=f"# ours\n{CA}{KEY}", client_cert=combined, client_key=combined)
    assert made == Endpoint(name="crm", url=URL, ca=CA, client_cert=CERT + CA, client_key=KEY)
    assert Endpoint.from_json(made.to_json()) == made
    assert made.tls == Tls(CA, CERT + CA, KEY)
    assert make().tls is None


def test_lines_that_end_otherwise_or_are_indented_are_the_same_pem() -> None:
    assert check_authorities(CA.replace("\n", "\r\n")) == CA
    assert check_authorities("".join(f"  {line}\n" for line in CA.splitlines())) == CA


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        LOADED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + KEY,
    ],
    ids=["traditional", "pkcs8", "parameters"],
)
def test_a_key_in_any_usual_form_belongs_to_its_certificate(key: str) -> None:
    check_pair(CERT, check_key(key))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ca": ""}, "the CA file has no certificate in PEM"),
        ({"ca": KEY}, "the CA file has no certificate in PEM"),
        ({"ca": ssl.PEM_cert_to_DER_cert(CA).decode("latin-1")}, "`openssl x509` converts other formats"),
        ({"ca": CA.replace("END", "EMD")}, "the CA file has no certificate in PEM"),
        ({"ca": CA.replace("MII", "M\u00e9I")}, "a certificate of the CA file is not base64"),
        ({"ca": CA + CA.replace("MII", "AAA")}, "certificate 2 of the CA file is not readable"),
        ({"ca": CA + "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"}, "certificate 2 of the CA file"),
        ({"ca": " " * (MAX_PEM_BYTES + 1)}, "the CA file is over 64 KiB"),
        ({"ca": CA.encode()}, "the CA file is the text of a PEM file"),
        ({"ca": 5}, "the CA file is the text of a PEM file"),
        ({"client_cert": CERT}, "give both, --client-cert and --client-key"),
        ({"client_key": KEY}, "give both, --client-cert and --client-key"),
        ({"client_cert": KEY, "client_key": KEY}, "the client certificate has no certificate in PEM"),
        ({"client_cert": CERT, "client_key": CERT}, "the client key has no private key in PEM"),
        ({"client_cert": CERT, "client_key": OTHER_KEY}, "the client key does not belong to the client certificate"),
        ({"client_cert": CA + CERT, "client_key": KEY}, "which has to be the first in its file"),
        ({"client_cert": CERT, "client_key": ENCRYPTED}, "the client key is encrypted"),
        ({"client_cert": CERT, "client_key": LEGACY}, "the client key is encrypted"),
        ({"client_cert": CERT, "client_key": KEY.replace("MHc", "AAA")}, "OpenSSL cannot use the client certificate"),
        ({"client_cert": CERT, "client_key": KEY.replace("MHc", "M\u00e9c")}, "the client key is not base64"),
        ({"client_cert": CERT, "client_key": KEY.replace("MHc", "M\0c")}, "the client key is not base64"),
        ({"client_cert": CERT, "client_key": KEY.replace("MHc", "Foo: bar\nMHc")}, "the client key is not base64"),
        ({"client_cert": CERT, "client_key": f"{KEY:<{MAX_PEM_BYTES + 1}}"}, "the client key is over 64 KiB"),
        ({"ca": CA, "url": "http://hooks.example.com/in"}, "needs a URL that begins with https://"),
    ],
    ids=count(),  # what is made anew in each process is no name
)
def test_what_cannot_be_used_is_refused_in_one_sentence_that_repeats_nothing_of_it(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(EndpointError) as refused:
        make(**values)
    told = str(refused.value)
    assert words in told
    assert told.isprintable()
    assert len(told) < 250
    for line in (*KEY.splitlines()[1:-1], *ENCRYPTED.splitlines()[1:-1], *CA.splitlines()[1:-1]):
        assert line not in told


def test_a_key_that_openssl_holds_for_too_short_is_refused_with_its_reason() -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the claim
    name = Name([NameAttribute(NameOID.COMMON_NAME, "client.example")])
    built = CertificateBuilder(name, name, short.public_key(), 7, datetime(2026, 1, 1), datetime(2036, 1, 1))  # noqa: DTZ001 - UTC
    cert = built.sign(short, SHA256()).public_bytes(Encoding.PEM).decode()
    key = short.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(EndpointError, match=r"OpenSSL cannot use .* \(EE_KEY_TOO_SMALL\)"):
        check_pair(cert, key)


def test_a_change_of_one_part_is_checked_with_what_is_there() -> None:
    made = make(client_cert=CERT, client_key=KEY, ca=CA)
    renewed = trustme.CA().issue_cert("client.example")
    with pytest.raises(EndpointError, match="does not belong"):
        change_endpoint(CONFIG, made, client_cert=renewed.cert_chain_pems[0].bytes().decode())
    with pytest.raises(EndpointError, match="give both"):
        change_endpoint(CONFIG, made, client_key=None)
    with pytest.raises(EndpointError, match="https://"):
        change_endpoint(CONFIG, made, url="http://hooks.example.com/in")
    assert change_endpoint(CONFIG, made, client_cert=None, client_key=None, ca=None) == make()


@pytest.mark.parametrize(
    "change",
    [
        {"ca": ""},
        {"ca": "nonsense"},
        {"ca": 5},
        {"ca": CA.replace("MII", "AAA")},
        {"client_cert": None},
        {"client_key": None},
        {"client_cert": CERT[:200]},
        {"client_key": OTHER_KEY},
        {"client_key": ENCRYPTED},
        {"client_key": KEY.replace("MHc", "AAA")},
        {"client_key": [KEY]},
        {"client_key": KEY.replace("MHc", "M\u00e9c")},
    ],
    ids=count(),  # what is made anew in each process is no name
)
def test_a_record_that_was_edited_is_broken_and_does_not_show_its_key(change: dict[str, object]) -> None:
    record = orjson.loads(make(ca=CA, client_cert=CERT, client_key=KEY).to_json()) | change
    with pytest.raises(EndpointError) as refused:
        Endpoint.from_json(orjson.dumps(record))
    assert "the stored endpoint 'crm' has a broken c" in str(refused.value)
    assert SECRET_LINE not in str(refused.value)


def test_a_record_is_not_broken_because_this_process_has_no_file_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    made = make(client_cert=CERT, client_key=KEY)
    monkeypatch.setattr(os, "memfd_create", none_left, raising=False)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", none_left)
    assert Endpoint.from_json(made.to_json()) == made
    with pytest.raises(OSError, match="Too many open files"):
        context_of(made.tls)


def test_a_key_that_got_past_the_checks_never_asks_for_a_passphrase_at_a_terminal() -> None:
    program = "from kasplo_notify.tls import Tls, context_of; context_of(Tls(None, *__import__('sys').argv[1:]))"
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, CERT, ENCRYPTED], stdin=slave, capture_output=True, timeout=30, check=False
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 1
    assert b"ssl.SSLError" in done.stderr


def test_repr_shows_neither_key_nor_certificates() -> None:
    made = make(ca=CA, client_cert=CERT, client_key=KEY)
    assert "BEGIN" not in repr(made) + repr(made.tls)
    assert SECRET_LINE not in repr(made) + repr(made.tls)


def test_a_context_verifies_by_what_was_given_alone_and_speaks_tls_1_2_at_least() -> None:
    system, own = context_of(), context_of(Tls(ca=CA))
    assert len(own.get_ca_certs()) == 1
    for context in (system, own, context_of(Tls(cert=CERT, key=KEY)), context_of(Tls(CA, CERT, KEY))):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_no_context_writes_the_keys_of_its_sessions_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    for tls in (None, Tls(ca=CA), Tls(CA, CERT, KEY)):
        assert context_of(tls).keylog_filename is None
    check_pair(CERT, KEY)
    check_authorities(CA)
    assert list(tmp_path.iterdir()) == []
    assert ssl.create_default_context().keylog_filename == str(tmp_path / "keys.log")


def test_by_the_systems_authorities_it_is_verified_as_python_does() -> None:
    ours, python = context_of(), ssl.create_default_context()
    assert ours.verify_flags == python.verify_flags
    assert ours.cert_store_stats() == python.cert_store_stats()
    assert ours.options == python.options | ssl.OP_NO_RENEGOTIATION
    assert [each["name"] for each in ours.get_ciphers()] == [each["name"] for each in python.get_ciphers()]


def test_a_key_leaves_nothing_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check_pair(CERT, KEY)
    with pytest.raises(EndpointError):
        check_pair(CERT, OTHER_KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("until", [datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
def test_fingerprint_and_validity_are_those_that_another_reader_finds(until: datetime) -> None:
    issued = AUTHORITY.issue_cert("a.example", not_before=datetime(1999, 5, 6, tzinfo=UTC), not_after=until)
    pem = issued.cert_chain_pems[0].bytes()
    other = load_pem_x509_certificate(pem)
    (read,) = certificates(pem.decode())
    assert read.not_before == other.not_valid_before_utc.timestamp()
    assert read.not_after == other.not_valid_after_utc.timestamp()
    assert read.sha256 == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
