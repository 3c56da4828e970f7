"""The command of Debian's `webhook`, which cannot verify Standard Webhooks itself: as library.py, for one request.

What it gets from the hook is in docs/receiving.md. Its line goes to the file $TOLD; the secrets are in $SECRETS.
"""

import json
import os
import sys
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

headers = {f"webhook-{name}": os.environ[name.upper()] for name in ("id", "timestamp", "signature")}


def verifying(body: bytes) -> list[int]:
    """The secrets, by their number, that verify a request."""
    found = []
    for number, secret in enumerate(os.environ["SECRETS"].split()):
        try:
            Webhook(secret).verify(body, headers, json_parse=False)
            found.append(number)
        except WebhookVerificationError:
            continue
    return found


body = Path(os.environ["BODY"]).read_bytes()
verified = verifying(body)
told = {
    "id": headers["webhook-id"],
    "timestamp": headers["webhook-timestamp"],
    "attempt": int(os.environ["ATTEMPT"]),
    "verified": verified,
    "changed": verifying(body.replace(b"c", b"k")),
}
with Path(os.environ["TOLD"]).open("a") as file:
    file.write(json.dumps(told) + "\n")
sys.exit(not verified or told["attempt"] == 1)
