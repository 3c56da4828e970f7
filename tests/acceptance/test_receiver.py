"""The sample receiver answers as the document says, and believes no signature that it cannot verify."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from kasplo_notify.receiver import Delivery, ReceiverThread, main
from kasplo_notify.signature import generate_secret, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b'{"event_type":"scomp"}'


@pytest.fixture
def deliveries() -> list[Delivery]:
    return []


@pytest.fixture
def running(deliveries: list[Delivery]) -> Iterator[ReceiverThread]:
    with ReceiverThread(deliveries.append) as thread:
        yield thread


def send(
    running: ReceiverThread,
    method: str = "POST",
    *,
    path: str = "",
    body: bytes = BODY,
    secret: str = "",
    **extra: str,
) -> tuple[int, str, bytes]:
    url = urllib.parse.urlsplit(running.receiver.url)
    now = int(time.time())
    headers = {
        "webhook-id": "e1",
        "webhook-timestamp": str(now),
        "X-Kasplo-Attempt": "2",
        "Content-Length": str(len(body)),
    }
    if secret:
        headers["webhook-signature"] = sign([secret], "e1", now, body)
    connection = http.client.HTTPConnection(url.netloc, timeout=5)
    try:
        connection.request(method, path or url.path, body=body, headers=headers | extra)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_it_answers_as_the_sample_api(running: ReceiverThread, deliveries: list[Delivery], method: str) -> None:
    assert send(running, method) == (200, "application/json", b'{"status":"OK"}')
    (delivery,) = deliveries
    assert (delivery.method, delivery.path, delivery.body) == (method, "/v1/webhook", BODY)
    assert (delivery.event_id, delivery.attempt, delivery.status) == ("e1", 2, 200)
    assert abs(delivery.received_at - time.time()) < 5


def test_it_verifies_signatures_of_known_secrets_only(running: ReceiverThread, deliveries: list[Delivery]) -> None:
    known, unknown = generate_secret(), generate_secret()
    running.receiver.know(known)
    send(running, secret=known)
    send(running, secret=unknown)
    send(running)
    assert [delivery.verified for delivery in deliveries] == [True, False, False]


def test_it_refuses_an_event_as_often_as_it_was_told(running: ReceiverThread, deliveries: list[Delivery]) -> None:
    running.receiver.refuse("e1", 2)
    assert [send(running)[0] for _ in range(3)] == [503, 503, 200]
    assert [delivery.status for delivery in deliveries] == [503, 503, 200]


def test_other_paths_and_methods_are_not_deliveries(running: ReceiverThread, deliveries: list[Delivery]) -> None:
    assert send(running, path="/elsewhere")[0] == 404
    assert send(running, "PUT")[0] == 405
    assert deliveries == []


def test_a_query_string_is_kept_as_sent(running: ReceiverThread, deliveries: list[Delivery]) -> None:
    send(running, "GET", path="/v1/webhook?event_type=scomp&email=a%40b.c")
    assert deliveries[0].path == "/v1/webhook?event_type=scomp&email=a%40b.c"


def test_as_a_program_it_shows_what_comes_until_it_is_stopped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = [sys.executable, "-m", "kasplo_notify.receiver", str(port)]
        refused = subprocess.run(program, capture_output=True, text=True, timeout=20, check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"http://127.0.0.1:{port}/v1/webhook" in process.stdout.readline()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", "/v1/webhook", body=b'{"a":"\x1b[2J"}', headers={"X-Kasplo-Attempt": "1"})
            assert connection.getresponse().read() == b'{"status":"OK"}'
            connection.close()
            assert process.stdout.readline() == 'POST /v1/webhook  attempt 1  {"a":"\\x1b[2J"}\n'
        finally:
            process.terminate()


@pytest.mark.parametrize("arguments", [["many"], ["-1"], ["65536"], ["1", "2"]])
def test_as_a_program_it_takes_a_port_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: ")
