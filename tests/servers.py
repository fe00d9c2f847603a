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


def wait_until(happened, also=lambda: "", seconds=400, process=None):
    """The first true answer of `happened`; after so many seconds, or the end of `process`, a failure with `also`."""
    deadline = time.monotonic() + seconds
    while not (answer := happened()):
        going = process is None or process.poll() is None
        assert going, f"ended too early: {also()}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {also()}"
        time.sleep(0.05)
    return answer


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
