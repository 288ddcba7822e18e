"""The Dovecot of docker/compose.yaml without a container engine: its files, its capabilities, its read-only root.

The same programs (Debian 12's) run on the same configuration in a mount namespace of their own; only the port is
another, a free one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import free_port, missing, open_folder, require, require_root, running

DOCKER = Path(__file__).parents[2] / "docker"
PORT = "2424"

# As Dockerfile and compose.yaml have it: /etc/dovecot, tmpfs on /run and /tmp, the volume /srv/mail; else read-only.
_LAYOUT = """\
set -e
mount --make-rprivate /
mount --bind "$1/etc" /etc/dovecot
mount --bind "$1/mail" /srv
mount --bind / /mnt
for folder in /etc/dovecot /srv /proc /dev /sys; do mount --rbind $folder /mnt$folder; done
mount -t tmpfs tmpfs /mnt/run
mount -t tmpfs -o mode=1777 tmpfs /mnt/tmp
mount -o remount,bind,ro /mnt
shift
exec chroot /mnt setpriv --no-new-privs --inh-caps=-all --bounding-set="$CAPABILITIES" "$@"
"""


class ComposedDovecot:
    """port: of its LMTP service, on 127.0.0.1."""

    def __init__(self, folder: Path, port: int, process: int) -> None:
        self.port = port
        self._folder = folder
        self._process = process

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose exec dovecot …` would run."""
        root = f"/proc/{self._process}/root"
        inside = ["nsenter", f"--mount=/proc/{self._process}/ns/mnt", f"--root={root}", *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=30)


@contextmanager
def running_composed_dovecot(capabilities: Sequence[str]) -> Iterator[ComposedDovecot]:
    """Start it with these capabilities (`cap_add`) and no others; end it with the block."""
    program = require("dovecot", "dovecot-core")
    if not Path("/usr/lib/dovecot/lmtp").exists():
        missing("Dovecot's LMTP service is not installed: apt install dovecot-lmtpd")
    require_root(program)
    with open_folder("composed") as folder:
        port = free_port()
        (folder / "etc").mkdir()
        (folder / "mail/mail").mkdir(parents=True)
        os.chown(folder / "mail/mail", 10002, 10002)
        shutil.copy(DOCKER / "dovecot/users", folder / "etc/users")
        conf = (DOCKER / "dovecot/dovecot.conf").read_text()
        assert f"port = {PORT}\n" in conf
        # On loopback and not on all addresses, since here nothing keeps others away.
        conf = conf.replace(f"port = {PORT}\n", f"port = {port}\n").replace("listen = *", "listen = 127.0.0.1")
        (folder / "etc/dovecot.conf").write_text(conf.replace("10.0.0.0/8", "127.0.0.0/8"))
        script = folder / "layout"
        script.write_text(_LAYOUT)
        bounding = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
        command = ["env", f"CAPABILITIES={bounding}", "unshare", "--mount", "sh", str(script), str(folder)]
        with running([*command, program, "-F"], log=folder / "log", ports=[port]) as process:
            yield ComposedDovecot(folder, port, process.pid)
