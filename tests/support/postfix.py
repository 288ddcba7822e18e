"""A Postfix of our own as next hop: its configuration, queue and mailbox in one folder, on free loopback ports."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.clients import Transport
from tests.support.mail import crlf
from tests.support.peers import free_port, open_folder, require, require_root, running, wait_until

DOMAIN = "postfix.example"

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mail.{domain}
mydestination =
alias_maps =
alias_database =
mynetworks =
inet_protocols = ipv4
smtputf8_enable = yes
smtpd_authorized_xclient_hosts = 127.0.0.0/8
message_size_limit = 33554432
virtual_mailbox_limit = 0
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {chain}
smtpd_tls_loglevel = 1
tls_random_source = dev:/dev/urandom
"""

# No column is chrooted, and nothing is here that a mail to a virtual mailbox does not need.
_MASTER = """\
127.0.0.1:{plain} inet n - n - - smtpd
127.0.0.1:{implicit} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
smtp unix - - n - - smtp
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A running Postfix that keeps mail for anybody at `postfix.example`."""

    name = "postfix"
    domain = DOMAIN
    smtputf8 = True
    login: tuple[str, str] | None = None

    def __init__(self, folder: Path, ports: dict[Transport, int]) -> None:
        self.folder = folder
        self.ports = ports

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def received(self) -> list[bytes]:
        """All messages delivered so far, lines ending with CRLF, once the queue has run empty."""
        queue = self.folder / "queue"

        def idle() -> bool:
            return not any(
                path.is_file()
                for stage in ("maildrop", "incoming", "active", "deferred")
                for path in (queue / stage).rglob("*")
            )

        wait_until("Postfix delivers what it has taken", idle)
        return [crlf(path.read_bytes()) for path in (self.folder / "mail" / "new").glob("*")]


@contextmanager
def running_postfix(certificates: Certificates) -> Iterator[Postfix]:
    """Start one, end it with the block."""
    postfix, postconf = require("postfix", "postfix"), require("postconf", "postfix")
    require_root("postfix")
    daemons = subprocess.run([postconf, "-dh", "daemon_directory"], capture_output=True, check=True, text=True)
    with open_folder("postfix") as folder:
        ports = {Transport.PLAIN: free_port(), Transport.IMPLICIT: free_port()}
        ports[Transport.STARTTLS] = ports[Transport.PLAIN]
        conf = folder / "conf"
        for made in ("conf", "queue", "data"):
            (folder / made).mkdir()
        shutil.chown(folder / "data", "postfix")
        (folder / "mail").mkdir()
        (folder / "mail").chmod(0o777)
        (conf / "main.cf").write_text(
            _MAIN.format(folder=folder, domain=DOMAIN, key=certificates.key, chain=certificates.chain)
        )
        (conf / "master.cf").write_text(
            _MASTER.format(plain=ports[Transport.PLAIN], implicit=ports[Transport.IMPLICIT])
        )
        # `check` makes the queue's folders and gives them their owners.
        subprocess.run([postfix, "-c", str(conf), "check"], check=True, capture_output=True)
        command = [f"{daemons.stdout.strip()}/master", "-c", str(conf), "-d"]
        with running(command, log=folder / "log", ports=sorted(set(ports.values()))):
            yield Postfix(folder, ports)
