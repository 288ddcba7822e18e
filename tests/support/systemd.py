"""A systemd of our own, PID 1 of a namespace, that runs systemd/relay.service as it is written.

Its mounts, processes and control groups are its own; only the network is shared. The unit's /opt/relay/bin/relay is
this source tree on this Python; a drop-in says where the configuration is, and waits less long for the watchdog.
"""

from __future__ import annotations

import re
import secrets
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.peers import PATIENCE, open_folder, require, require_root, wait_until
from tests.support.processes import children

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/relay.service"
_SYSTEMD = "/lib/systemd/systemd"

# $1: the folder prepared below. $2: the name of a control group to make.
_OUTER = """\
set -e
mount --make-rprivate /
mount -t cgroup2 none "$1/groups"
mkdir "$1/groups/$2"
echo $$ >"$1/groups/$2/cgroup.procs"
exec unshare --kill-child --fork --pid --cgroup --mount --uts --ipc --mount-proc sh "$1/inner" "$1"
"""
_INNER = """\
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/units
cp -r "$1/units/." /run/units
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /var/lib
mount --bind "$1/etc/passwd" /etc/passwd
mount --bind "$1/etc/group" /etc/group
mount --bind "$1/opt" /opt
mount --bind {python} /opt/python
mount --bind {packages} /opt/packages
mount --bind {source} /opt/source
mount --make-rshared /  # systemd does so, but in containers leaves it to us; credentials come by way of it
export container=relay-test SYSTEMD_UNIT_PATH=/run/units
exec {systemd} --system --unit=test.target --log-target=console --show-status=no
"""
_TARGET = "[Unit]\nDefaultDependencies=no\nWants=relay.service\n"
_DROP_IN = """\
[Unit]
DefaultDependencies=no
[Service]
Environment=RELAY_CONFIG=/opt/config.toml
LoadCredential=password:/opt/password
Environment=RELAY_HOP__MAILBOX__PASSWORD_FILE=%d/password
WatchdogSec=2s
StandardError=append:/opt/log
"""
_REMOVE = """\
mount --make-rprivate /
mount -t cgroup2 none "$1/groups"
if [ -d "$1/groups/$2" ]; then find "$1/groups/$2" -depth -type d -exec rmdir {} +; fi
"""


class Systemd:
    """A running systemd. config: the file of its relay, which may be rewritten."""

    def __init__(self, folder: Path, process: int) -> None:
        self.config = folder / "opt/config.toml"
        self._logs = folder / "log", folder / "opt/log"
        self._process = process

    @property
    def log(self) -> str:
        """What systemd and the relay have said."""
        return "".join(log.read_text(errors="replace") for log in self._logs if log.exists())

    def ctl(self, *arguments: str) -> str:
        """What `systemctl` prints. AssertionError when it fails."""
        first = children(self._process)[0]  # its process 1
        command = ["nsenter", f"--target={first}", "--mount", "--pid", "--cgroup", "systemctl", *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, (run.stderr, self.log)
        return run.stdout.strip()

    def show(self, name: str) -> str:
        """A property of relay.service."""
        return self.ctl("show", "relay.service", f"--property={name}", "--value")

    def is_active(self) -> bool:
        assert Path(f"/proc/{self._process}").exists(), self.log
        try:
            state = self.show("ActiveState")
        except (AssertionError, FileNotFoundError, IndexError):  # it is just coming up
            return False
        assert state != "failed", self.log
        return state == "active"


@contextmanager
def running_systemd(config: str) -> Iterator[Systemd]:
    """Start it with relay.service on `config`; the relay takes mail when the block begins."""
    require("systemd-analyze", "systemd")
    require_root("systemd")
    with open_folder("systemd") as folder:
        group = f"relay-test-{secrets.token_hex(4)}"
        _prepare(folder, config)
        command = ["unshare", "--mount", "sh", str(folder / "outer"), str(folder), group]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            systemd = Systemd(folder, process.pid)
            wait_until("systemd has started relay.service", systemd.is_active)
            yield systemd
        finally:
            process.kill()  # and by --kill-child all of its namespace
            process.wait(PATIENCE)
            wait_until(
                "its control groups are empty",
                lambda: (
                    subprocess.run(["unshare", "--mount", "sh", "-c", _REMOVE, "sh", folder, group]).returncode == 0
                ),
            )


def skip_without_namespaces() -> None:
    """Skip where the kernel lets nobody have them, as in most containers; that is no package to install."""
    probe = ["unshare", "--fork", "--pid", "--cgroup", "--mount", "mount", "-t", "cgroup2", "none", "/mnt"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("namespaces and a cgroup2 of one's own are not to be had here")


def _prepare(folder: Path, config: str) -> None:
    for name in (
        "groups",
        "etc",
        "units/relay.service.d",
        *(f"opt/{name}" for name in ("python", "packages", "source")),
    ):
        (folder / name).mkdir(parents=True)
    shutil.copy(UNIT, folder / "units")
    (folder / "units/test.target").write_text(_TARGET)
    (folder / "units/relay.service.d/test.conf").write_text(_DROP_IN)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", folder / "etc")
    subprocess.run(["systemd-sysusers", f"--root={folder}", str(ROOT / "systemd/relay.sysusers")], check=True)
    program = folder / "opt/relay/bin/relay"
    program.parent.mkdir(parents=True)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program.write_text(
        "#!/bin/sh\n"
        "export PYTHONHOME=/opt/python PYTHONPATH=/opt/source:/opt/packages LD_LIBRARY_PATH=/opt/python/lib\n"
        f'exec /opt/python/bin/{python} -m relay "$@"\n'
    )
    program.chmod(0o755)
    (folder / "opt/config.toml").write_text(config)
    (folder / "opt/password").touch(mode=0o600)  # root's
    (folder / "opt/password").write_text("a secret\n")
    inner = _INNER.format(python=sys.base_prefix, packages=site.getsitepackages()[0], source=ROOT, systemd=_SYSTEMD)
    (folder / "outer").write_text(_OUTER)
    (folder / "inner").write_text(inner)


def allowed_system_calls() -> set[str]:
    """What the unit's SystemCallFilter lets through: the first list without the second."""
    first, second = re.findall(r"^SystemCallFilter=(~?.*)$", UNIT.read_text(), re.MULTILINE)
    assert second.startswith("~")
    wanted = set().union(*map(_expand, first.split()))
    return wanted - set().union(*map(_expand, second[1:].split()))


def _expand(group: str) -> set[str]:
    listing = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    found: set[str] = set()
    for line in listing.stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= _expand(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found
