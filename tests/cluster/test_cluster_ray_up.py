"""cluster.yaml's commands for real: `ray up` over three hosts, a job, one host cut off in the middle, `ray down`.

Takes minutes and gigabytes: set METGAN_TESTS_NAMESPACES=1, as root.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from ec2_metadata import Metadata, notice
from hosts import HERE, Hosts, why_not
from open_ports import CLUSTER, ROOT
from servers import free_port
from user import command

PATIENCE = 900  # seconds
BIN = Path(sys.executable).parent

FIELDS = {
    "scaling__workers": 2,
    "scaling__min_workers": 1,
    "scaling__cpus_per_worker": 1.5,
    "training__batch_size": 2,
    "training__epochs": 20,
    "training__max_steps": 75,
    "training__checkpoint_every": 40,
    "training__validate_every": 100_000,
    "tracking__run": "cut",
}

NODES_THAT_STAY = """RAY_AUTH_MODE=token ~/venv/bin/python -c '
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
going = ray._private.state.state.get_draining_nodes()
print(sum(node["Alive"] and node["NodeID"] not in going for node in ray.nodes()))
'"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("METGAN_TESTS_NAMESPACES"), reason="METGAN_TESTS_NAMESPACES is not set"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or ""),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts"), 3) as running:
        yield running


@pytest.fixture(scope="module")
def metadata(hosts):
    with Metadata(HERE) as service:
        yield service


def for_these_hosts(hosts, folder, metadata):
    """cluster.yaml with its own commands, but the `local` provider, and this environment instead of an installation."""
    ours = yaml.safe_load(CLUSTER.read_text())
    head, *workers = hosts.hosts
    for name in ("available_node_types", "head_node_type", "max_workers", "upscaling_speed"):
        ours.pop(name)
    ours |= {
        "cluster_name": f"metgan-{os.getpid()}",  # Ray remembers in /tmp which hosts of a name are up
        "provider": {"type": "local", "head_ip": head.address, "worker_ips": [host.address for host in workers]},
        "auth": {"ssh_user": "root", "ssh_private_key": str(hosts.key)},
    }
    installs = [command for command in ours["setup_commands"] if "venv ~/venv" in command or "pip install" in command]
    assert len(installs) == 2
    kept = [command for command in ours["setup_commands"] if command not in installs]
    ours["setup_commands"] = [f"mkdir -p ~/.ssh; ln -sfn {BIN.parent} ~/venv", *kept]
    # Ray gives a node seconds to start: this one machine starts them one after the other, and again if it was too busy.
    # The CPUs are what the types of nodes say on AWS.
    start = f"until flock -o {hosts.folder}/turn ray start --object-store-memory=150000000"
    for kind, cpus in (("head", 0), ("worker", 2)):
        ours[f"{kind}_start_ray_commands"] = [
            command.replace("ray start", f"{start} --num-cpus={cpus}") + "; do ray stop; done"
            if "ray start" in command
            else command.replace("notice.py", f"notice.py {metadata.address}")
            for command in ours[f"{kind}_start_ray_commands"]
        ]
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(ours, sort_keys=False, width=1000))
    return path


def ray(*arguments, env=None, check=True, timeout=PATIENCE):
    done = subprocess.run(
        [str(BIN / "ray"), *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )
    print(f"$ ray {' '.join(arguments)}\n{done.stdout}{done.stderr}", flush=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def tunnel(config, env, port):
    """`ray dashboard`, in a terminal of its own, for as long as a `with` block."""
    here = free_port()
    process = subprocess.Popen(
        [str(BIN / "ray"), "dashboard", str(config), "--port", str(here), "--remote-port", str(port)],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", here), 2):
                break
            assert time.monotonic() < deadline, "the tunnel did not open"
            time.sleep(1)
        yield f"http://127.0.0.1:{here}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def until(happened, what, also=lambda: ""):
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen\n{also()}"
        time.sleep(3)


def test_a_host_is_cut_off_in_the_middle_and_the_job_finishes_on_the_rest(
    hosts, metadata, segmentors, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("laptop")
    head, *workers = hosts.hosts
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    plain |= {"HOME": str(folder), "PATH": f"{BIN}:{plain['PATH']}"}
    # Ray's newer autoscaler stops at one worker here: the `local` provider does not list its own head as running.
    plain["RAY_UP_enable_autoscaler_v2"] = "0"
    (folder / ".ssh").mkdir()
    config = for_these_hosts(hosts, folder, metadata)
    ray("up", "-y", "--no-config-cache", "--disable-usage-stats", str(config), env=plain)

    token = folder / "token"
    ray("rsync-down", str(config), f"{hosts.home}/.ray/auth_token", str(token), env=plain)
    secret = token.read_text()
    assert len(secret) >= 32
    env = {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    status = "~/venv/bin/ray status"
    until(
        lambda: "0.0/4.0 CPU" in hosts.ssh(head, f"RAY_AUTH_MODE=token {status}", 120),
        "both workers joining",
        lambda: hosts.ssh(head, "tail -n 50 /tmp/ray/session_latest/logs/monitor*"),
    )
    for worker in workers:
        assert hosts.ssh(worker, "cat ~/.ray/auth_token") == secret
        assert hosts.ssh(worker, "stat -c %a ~/.ray/auth_token").strip() == "600"
    listening = hosts.ssh(head, "ss -ltnH '( sport = :8265 )' | awk '{print $4}'").split()
    assert listening == ["127.0.0.1:8265"]

    storage = folder / "results"
    with tunnel(config, env, 8265) as dashboard, tunnel(config, env, 5000) as mlflow:
        _, _, *flags = command("train_metgan", storage, **FIELDS, **segmentors)
        job = ["--address", dashboard, "--submission-id", "cut"]
        ray(
            "job", "submit", *job, "--no-wait", "--working-dir", str(ROOT), "--",
            "python", "jobs/train_metgan.py", *flags, env=env,
        )  # fmt: skip

        def log():
            return ray("job", "logs", "--address", dashboard, "cut", env=env, check=False)

        snapshot = storage / "cut/train/metgan/checkpoint_manager_snapshot.json"
        until(lambda: snapshot.exists() and "images-" in snapshot.read_text(), "a checkpoint", log)
        print(f"cutting off {workers[1].address}", flush=True)
        hosts.cut_off(workers[1])
        until((storage / "cut" / "result.json").exists, "the end of the job", log)
        said = log()
        assert "metgan: continuing from " in said
        assert "result: " in said
        result = json.loads((storage / "cut" / "result.json").read_text())
        assert result["status"] == "finished"
        assert result["artefacts"]["images"] == 300
        with urllib.request.urlopen(f"{mlflow}/health", timeout=30) as answer:
            assert answer.status == 200

    metadata.notice = notice(120)
    watcher = hosts.folder / workers[0].name / "home" / "spot_notice.log"
    until(lambda: "taken away" in watcher.read_text(), "the notice")
    until(lambda: hosts.ssh(head, NODES_THAT_STAY, 120).strip() == "1", "the draining", watcher.read_text)
    assert "could not be told" not in watcher.read_text()
    ray("down", "-y", str(config), env=plain, check=False)
