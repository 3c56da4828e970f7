"""The targets: each property with inputs to begin with, and with what is worth putting into them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from kasplo_notify.events import EVENT_TYPES
from kasplo_notify.spool import record as spooled
from kasplo_notify.stored import StoredEvent
from tests.fuzz import properties
from tests.fuzz.pem import CERTIFICATE, KEY


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that reads what strangers write.

    Attributes:
        run: The property: it raises when it has found something.
        seeds: Inputs from which others are made.
        words: What is worth putting into them.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


_EXAMPLES = [orjson.dumps(dict(each.example)) for each in EVENT_TYPES.values()]
_RECORD = replace(
    properties.ENDPOINT,
    headers=(("X-A", "b"),),
    secret="whsec_" + "A" * 32,
    basic="a:b",
    timeout=5.0,
    retry_delays=(1.0, 2.5),
).to_json()
_WITH_PEM = replace(properties.ENDPOINT, ca=CERTIFICATE, client_cert=CERTIFICATE, client_key=KEY)
_SPOOLED = spooled.pack(spooled.SpooledEvent("msg_2", "", "scomp", "a@b", b'{"event_type":"scomp"}'))

TARGETS = {
    "event": Target(run=properties.event, seeds=(b"", bytes(range(64)), bytes(range(255, 0, -3)))),
    "line": Target(
        run=properties.line,
        seeds=(*_EXAMPLES, b"\xef\xbb\xbf{}\n", b"[\n{}]\n", b'{"a":1,"a":2}'),
        words=(
            b'"event_type"',
            b'"\\ud800"',
            b"\\u0000",
            b"1e999",
            b"NaN",
            b"[" * 99,
            b"\n",
            b"9" * 30,
            b"null",
            b"-0",
        ),
    ),
    "url": Target(
        run=properties.url,
        seeds=(
            b"https://hooks.example.com/in?a=b",
            b"http://8.8.8.8:8080/",
            b"https://[2606:4700::1111]:8443",
            "https://bücher.example/ü".encode(),
        ),
        words=(
            b"://",
            b"@",
            b"[::1]",
            b"127.0.0.1",
            b"0x7f.1",
            b"0177.1",
            b"2130706433",
            b"localhost",
            b"%00",
            b"%2e",
            b"\\",
            b"#",
            b"?",
            b":443",
            b":80",
            "\u3002".encode(),
            "\uff11\uff12\uff17".encode(),
            "ß".encode(),
            b"xn--",
            b"..",
            b"\r\n",
            b"\t",
        ),
    ),
    "address": Target(
        run=properties.address,
        seeds=(
            b"8.8.8.8",
            b"2606:4700::1111",
            b"::ffff:127.0.0.1",
            b"64:ff9b::7f00:1",
            b"fe80::1%eth0",
            b"\x08\x08\x08\x08",
        ),
        words=(b"::", b"%", b"127.0.0.1", b"2002:", b"2001:0:", b"5efe"),
    ),
    "header": Target(
        run=properties.header,
        seeds=(b"X-Token: abc", b"Authorization: Bearer x", b"user:password", b"whsec_" + b"A" * 32),
        words=(
            b"\r\n",
            b": ",
            b"Host",
            b"Content-Length",
            b"X_Kasplo_",
            b"\x00",
            b" ",
            "é".encode(),
            b"webhook-id",
            b"=",
        ),
    ),
    "signed": Target(
        run=properties.signed,
        seeds=(b"", b"\x01\x05msg_1\x01\x0a1700000000\x01\x03v1,body"),
        words=(b"v1,", b"1700000000"),
    ),
    "stored": Target(
        run=properties.stored,
        seeds=(
            *(StoredEvent("msg_1", "news", each).pack() for each in _EXAMPLES),
            b"1,0,1700000000000\n1\nmsg_1\n\n" + _EXAMPLES[0],
        ),
        words=(b"\n", b",", b"9" * 20, b"-1", b"1_0", b"\xff", b"\\u000d\\u000a", b"%0d%0a", b'"event_type"', b"\r\n"),
    ),
    "endpoint": Target(
        run=properties.endpoint,
        seeds=(
            *(properties.ENDPOINT.to_json(), _RECORD, _WITH_PEM.to_json()),
            replace(_WITH_PEM, ca=None).to_json(),
            replace(properties.ENDPOINT, ca=CERTIFICATE).to_json(),
        ),
        words=(
            b'"url"',
            b"null",
            b"[]",
            b"[[]]",
            b'[["X-A"]]',
            b"1e999",
            b"9" * 400,
            b"-1",
            b"true",
            b"{}",
            b"\\n",
            b'"v":2',
            "é".encode(),
            b"\\u0000",
            b"\\ud800",
            b"\\u2028",
            b"=",
            b"-----BEGIN ",
            b"-----BEGIN RSA PRIVATE KEY-----\\n",
            b"-----END CERTIFICATE-----\\n",
            b"Proc-Type: 4,ENCRYPTED\\n",
        ),
    ),
    "counters": Target(
        run=properties.counters,
        seeds=(b"\x02\x015\x00\x00\x01a\x00", b"\x02\xff" + b"9" * 255 + b"\x13"),
        words=(b"9" * 99,),
    ),
    "spool": Target(
        run=properties.spool,
        seeds=(_SPOOLED, _SPOOLED * 3, _SPOOLED[:-3], _SPOOLED[:20] + bytes(40)),
        words=(b"\xffKN1", bytes(4), b"\xff" * 4),
    ),
    "retry_after": Target(
        run=properties.retry_after,
        seeds=(
            b"120",
            b"Tue, 14 Nov 2023 22:14:00 GMT",
            b"Tuesday, 14-Nov-23 22:14:00 GMT",
            b"Tue Nov 14 22:14:00 2023",
        ),
        words=(
            b"-",
            b"+9999",
            b"9" * 17,
            b"GMT",
            b"-0000",
            b"Feb",
            b"99",
            b"24:60:60",
            b"0000",
            b"9999",
            "٣".encode(),
            b"  ",
            b"(",
            b"AM",
        ),
    ),
    "answer": Target(
        run=properties.answer,
        seeds=tuple(
            head + each
            for head in (b"\x00\x00", b"\x01\x02\x14\x00\x28\x00", b"\xff\x00")
            for each in (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                (
                    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\nRetry-After: 9\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: y\r\n\r\n"
                ),
                b"HTTP/1.0 404 X\r\nConnection: keep-alive\r\n\r\nuntil the end",
                b"HTTP/1.1 101 X\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\nnoise",
                b"SSH-2.0-OpenSSH\r\n",
            )
        ),
        words=(
            b"HTTP/1.1 ",
            b"\r\n",
            b"\n",
            b"\r",
            b"\x00",
            b": ",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"0\r\n\r\n",
            b"F" * 17,
            b"-1",
            b"9" * 25,
            b"Content-Encoding: gzip\r\n",
            b"Connection: close\r\n",
            b"Upgrade: x\r\n",
            b" 204 ",
            b" 304 ",
            b"\r\n ",
            b"X" * 9000,
        ),
    ),
}
