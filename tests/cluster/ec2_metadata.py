"""What EC2 tells a machine about itself, as far as its end goes."""

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "IMDSv2"


class _Service(BaseHTTPRequestHandler):
    def do_PUT(self):
        asks = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(TOKEN if asks else None)

    def do_GET(self):
        allowed = self.headers["X-aws-ec2-metadata-token"] == TOKEN
        found = self.path == "/latest/meta-data/spot/instance-action"
        self._answer(self.server.notice if allowed and found else None)

    def _answer(self, text):
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_):
        pass


class Metadata(ThreadingHTTPServer):
    """EC2's metadata service for the time of a `with` block; `notice` is what it says of the end, None for 404."""

    def __init__(self, host="127.0.0.1"):
        super().__init__((host, 0), _Service)
        self.notice = None
        self.address = f"http://{host}:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def notice(seconds):
    """The words in which EC2 takes a spot machine away in so many seconds."""
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'
