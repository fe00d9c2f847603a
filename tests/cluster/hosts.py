"""Machines on one machine: network namespaces on a bridge, each with its own processes and home, and an sshd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.83"
BRIDGE = "mgtest0"
HERE = f"{NETWORK}.254"

SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""

# Ray stops and counts what it finds running: a host has to see its own processes and sessions only. The rest of /tmp
# is the disk that they share.
BOOT = """
mount --make-rprivate /
mkdir -p /tmp/ray /run/sshd
mount --bind {own}/ray /tmp/ray
mount --bind {own}/home {folder}/home
mount --bind {folder}/passwd /etc/passwd
hostname {name}
exec {sshd} -D -e -f {folder}/sshd_config
"""


@dataclass
class Host:
    """A namespace with its sshd."""

    name: str
    address: str
    process: subprocess.Popen


def why_not() -> str | None:
    """What is missing for hosts on this machine, None if nothing is."""
    if os.geteuid():
        return "needs root"
    missing = [tool for tool in ("sshd", "ssh", "ssh-keygen", "ip", "unshare", "rsync", "curl") if not _which(tool)]
    return f"needs {', '.join(missing)} (Debian: openssh-server, iproute2, rsync, curl)" if missing else None


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=not check)


class Hosts:
    """`count` hosts at NETWORK.1 and up, this machine at HERE, for the time of a `with` block."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.key, self.home = folder / "key", folder / "home"
        self.hosts: list[Host] = []

    def __enter__(self) -> Hosts:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for key in (self.key, self.folder / "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder))
        # root's home here may hold the very Python that the hosts run: theirs is another folder.
        passwd = Path("/etc/passwd").read_text()
        (self.folder / "passwd").write_text(re.sub(r"(?m)^(root:.*:)[^:]*:[^:]*$", rf"\1{self.home}:/bin/bash", passwd))
        self.home.mkdir()
        self._clear()
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{HERE}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for number in range(1, self.count + 1):
            self.hosts.append(self._host(number))
        for host in self.hosts:
            self._wait_for_sshd(host)

    def _host(self, number: int) -> Host:
        name, address = f"{BRIDGE}-{number}", f"{NETWORK}.{number}"
        own = self.folder / name
        (own / "ray").mkdir(parents=True)
        shutil.copytree("/etc/skel", own / "home")
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", name, "master", BRIDGE, "up")
        inside = ("ip", "netns", "exec", name)
        _run(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run(*inside, "ip", "link", "set", device, "up")
        # Leads nowhere, but Ray takes the address of the way out for the host's own.
        _run(*inside, "ip", "route", "add", "default", "dev", "eth0")
        boot = BOOT.format(name=name, own=own, folder=self.folder, sshd=_which("sshd"))
        apart = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-ec", boot)
        with (self.folder / f"{name}.log").open("w") as log:
            return Host(name, address, subprocess.Popen([*inside, *apart], stdout=log, stderr=log))

    def ssh(self, host: Host, command: str, timeout: float = 60) -> str:
        """Run a command on a host; its output."""
        options = ["-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        quiet = ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5"]
        done = subprocess.run(
            ["ssh", *options, *quiet, f"root@{host.address}", command],
            check=True, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return done.stdout

    def _wait_for_sshd(self, host: Host) -> None:
        deadline, reason = time.monotonic() + 60, ""
        while time.monotonic() < deadline and host.process.poll() is None:
            try:
                self.ssh(host, "true")
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                reason = str(error.stderr)
                time.sleep(0.5)
        log = (self.folder / f"{host.name}.log").read_text()
        raise AssertionError(f"{host.name} does not answer: {reason} {log}")

    def cut_off(self, host: Host) -> None:
        """Pull the plug of a host's network; its processes do not notice by themselves."""
        _run("ip", "link", "set", host.name, "down")

    def _clear(self) -> None:
        for number in range(1, self.count + 1):
            _run("ip", "netns", "delete", f"{BRIDGE}-{number}", check=False)
            _run("ip", "link", "delete", f"{BRIDGE}-{number}", check=False)
        _run("ip", "link", "delete", BRIDGE, check=False)

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.process.kill()  # the first process of the host: all others end with it
            host.process.wait(30)
        self._clear()
