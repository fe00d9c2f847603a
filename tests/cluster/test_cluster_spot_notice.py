"""EC2's notice, as its metadata service gives it, reaches Ray once and with the time that is left."""

import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metgan_dist.training import spot_notice

TOKEN = "IMDSv2"


@pytest.fixture
def metadata():
    """EC2's metadata service; `notice` is what it says of the instance's end, None for 404."""

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self):
            asks = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(TOKEN if asks else None)

        def do_GET(self):
            allowed = self.headers["X-aws-ec2-metadata-token"] == TOKEN
            found = self.path == "/latest/meta-data/spot/instance-action"
            self.answer(self.server.notice if allowed and found else None)

        def answer(self, text):
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.notice = None
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def notice(seconds):
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_no_notice_and_no_metadata_service(metadata):
    assert spot_notice.seconds_left(metadata.address) is None
    metadata.notice = "not JSON"
    assert spot_notice.seconds_left(metadata.address) is None
    assert spot_notice.seconds_left("http://127.0.0.1:1") is None


def test_the_time_that_is_left(metadata):
    metadata.notice = notice(120)
    assert spot_notice.seconds_left(metadata.address) == pytest.approx(119, abs=3)
    metadata.notice = notice(-5)
    assert spot_notice.seconds_left(metadata.address) == 0


def test_the_cluster_is_told_once_and_again_if_it_did_not_hear(metadata, capsys):
    told = []

    def act(seconds):
        told.append(seconds)
        if len(told) == 1:
            raise subprocess.CalledProcessError(1, "ray")

    watching = threading.Thread(target=spot_notice.watch, args=(metadata.address, act, 0.05), daemon=True)
    watching.start()
    watching.join(0.3)
    assert told == []
    metadata.notice = notice(100)
    watching.join(20)
    assert not watching.is_alive()
    assert len(told) == 2
    assert all(90 < seconds <= 100 for seconds in told)
    assert "could not be told" in capsys.readouterr().out


def test_it_needs_nothing_but_the_standard_library():
    code = f"import runpy, sys; runpy.run_path({spot_notice.__file__!r}); print('ray' in sys.modules)"
    done = subprocess.run(["python3", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
