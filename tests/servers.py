"""What tests need for servers of their own: a port that nobody has, and the wait until one answers."""

import socket
import time
import urllib.error
import urllib.request

LONG_ENOUGH = 180  # seconds for a server to come up on a busy machine


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_up(address, process, log=None):
    """Until `address` answers, be it with a refusal; a process that ended, or took too long, fails with its log."""
    deadline = time.monotonic() + LONG_ENOUGH
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            going = process.poll() is None and time.monotonic() < deadline
            assert going, log.read_text() if log else f"nobody answers at {address}"
            time.sleep(0.2)
