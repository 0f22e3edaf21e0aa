"""A webhook receiver that believes only what is signed. WEBHOOK_SECRET=whsec_… python verify_webhook.py [port]"""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

MAX_BYTES = 1024 * 1024  # of a body; what the service sends is far smaller
SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))


def is_genuine(headers, body: bytes) -> bool:
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > 300:
        return False  # an old message, sent again by somebody else
    digest = hmac.digest(SECRET, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    # There are two signatures for a day after the secret was rotated.
    signatures = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected, signature) for signature in signatures)


class Receiver(BaseHTTPRequestHandler):
    timeout = 10  # seconds that a read may wait: there is one connection at a time

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or len(length) > 7 or int(length) > MAX_BYTES:  # anybody may send anything
            self.send_error(413 if length else 411)
            return
        body = self.rfile.read(int(length))  # the bytes as they came, not JSON written anew
        genuine = is_genuine(self.headers, body)
        self.send_response(204 if genuine else 401)
        self.end_headers()
        if genuine:  # webhook-id is the same at every repetition: remember it, and act once
            print(self.headers["webhook-id"], json.loads(body)["type"], flush=True)


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Receiver)
    print("listening on", server.server_port, flush=True)
    server.serve_forever()
