"""Tells Ray that the spot machine it runs on is about to be taken away, so that trainings save and move on in time.

EC2 says so two minutes ahead, in the metadata that a machine reads about itself, and Ray does not look there. Started
by cluster.yaml on each worker, before any job brings the package: a script of the standard library and Ray's command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime

METADATA = "http://169.254.169.254"
PAUSE_SECONDS = 5.0


def seconds_left(metadata: str = METADATA) -> float | None:
    """Seconds until EC2 takes this machine away; None while it has not said so, or on a machine outside EC2."""
    try:
        asked = _request(f"{metadata}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        notice = json.loads(
            _request(f"{metadata}/latest/meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": asked})
        )
    except (OSError, ValueError):  # 404 is the usual answer; a metadata service that stumbles is asked again
        return None
    ends = datetime.strptime(notice["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return max(0.0, (ends - datetime.now(UTC)).total_seconds())


def _request(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=2) as answer:
        text: str = answer.read().decode()
        return text


def drain(seconds: float) -> None:
    """Tell the cluster that this node ends in so many seconds; nothing new is placed on it from now on."""
    subprocess.run(
        [
            os.path.join(os.path.dirname(sys.executable), "ray"),  # noqa: PTH118, PTH120 - this interpreter's own Ray
            "drain-node",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=EC2 takes the spot instance away",
            f"--deadline-remaining-seconds={int(seconds)}",
        ],
        check=True,
    )


def watch(metadata: str, act: Callable[[float], None], pause: float = PAUSE_SECONDS) -> None:
    """Ask every `pause` seconds, and `act` once when the notice comes; a failed `act` is tried again."""
    while True:
        left = seconds_left(metadata)
        if left is not None:
            print(f"this machine is taken away in {left:.0f} s", flush=True)
            try:
                return act(left)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"the cluster could not be told: {error}", flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    # Any argument is another address of the metadata service.
    watch(sys.argv[1] if len(sys.argv) > 1 else METADATA, drain)
