"""EC2's notice, as its metadata service gives it, reaches Ray once and with the time that is left."""

import subprocess
import threading

import pytest
from ec2_metadata import Metadata, notice

from metgan_dist.cluster import spot_notice


@pytest.fixture
def metadata():
    with Metadata() as service:
        yield service


def test_no_notice_and_no_metadata_service(metadata):
    assert spot_notice.seconds_left(metadata.address) is None
    metadata.notice = "not JSON"
    assert spot_notice.seconds_left(metadata.address) is None
    assert spot_notice.seconds_left("http://127.0.0.1:1") is None


def test_the_time_that_is_left(metadata):
    metadata.notice = notice(120)
    assert spot_notice.seconds_left(metadata.address) == pytest.approx(110, abs=10)
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
    watching.join(100)
    assert not watching.is_alive()
    assert len(told) == 2
    assert all(0 < seconds <= 100 for seconds in told)
    assert "could not be told" in capsys.readouterr().out


def test_it_needs_nothing_but_the_standard_library():
    code = f"import runpy, sys; runpy.run_path({spot_notice.__file__!r}); print('ray' in sys.modules)"
    done = subprocess.run(["python3", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
