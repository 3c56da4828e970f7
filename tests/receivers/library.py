"""A receiver that verifies with a library of PyPI: `python library.py standardwebhooks|svix SECRET...`.

It tells its port on the first line, and on a line for each request which of the secrets verify it, as it came and with
a byte more. The first request of an event is answered with 503, later ones with 200 if one of the secrets verifies.
"""

import importlib
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

webhooks = importlib.import_module(f"{sys.argv[1]}.webhooks")
secrets = sys.argv[2:]


def verifying(body: bytes, headers: dict[str, str]) -> list[int]:
    """The secrets, by their number, that verify a request."""
    found = []
    for number, secret in enumerate(secrets):
        try:
            webhooks.Webhook(secret).verify(body, headers)
            found.append(number)
        except webhooks.WebhookVerificationError:
            continue
    return found


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = dict(self.headers.items())
        verified = verifying(body, headers)
        told = {
            "id": headers["webhook-id"],
            "timestamp": headers["webhook-timestamp"],
            "attempt": int(headers["X-Kasplo-Attempt"]),
            "verified": verified,
            "changed": verifying(body.replace(b"c", b"k"), headers),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        self.send_response((503 if told["attempt"] == 1 else 200) if verified else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """The lines above are the log."""


server = HTTPServer(("127.0.0.1", 0), Receiver)
sys.stdout.write(f"{server.server_port}\n")
sys.stdout.flush()
server.serve_forever()
