"""A Dovecot of our own as next hop: its submission service, with TLS and login, handing on to an smtp-sink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.clients import Transport
from tests.support.peers import free_port, missing, open_folder, require, require_root, running
from tests.support.smtp_sink import SmtpSink, running_smtp_sink

LOGIN = ("relay", "dovecot-canary-Zk4")

_CONF = """\
protocols = submission
listen = 127.0.0.1
base_dir = {folder}/run
log_path = {folder}/log
hostname = mail.dovecot.example
ssl = yes
ssl_cert = <{chain}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
mail_location = maildir:{folder}/mail
first_valid_uid = 1
submission_max_mail_size = 32M
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
submission_relay_ssl = no
passdb {{
  driver = static
  args = user={name} password={password}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail
}}
service anvil {{
  # No penalty for failed logins: all tests come from one address.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service submission-login {{
  inet_listener submission {{
    port = {plain}
  }}
  inet_listener submissions {{
    port = {implicit}
    ssl = yes
  }}
}}
"""


class Dovecot:
    """A running Dovecot submission service; what it takes arrives in `sink`."""

    name = "dovecot"
    domain = "dovecot.example"
    smtputf8 = False
    login: tuple[str, str] | None = LOGIN

    def __init__(self, folder: Path, ports: dict[Transport, int], sink: SmtpSink) -> None:
        self.folder = folder
        self.ports = ports
        self.sink = sink

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def received(self) -> list[bytes]:
        """All messages handed on so far, lines ending with CRLF."""
        return self.sink.received()


@contextmanager
def running_dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """Start one and its smtp-sink, end them with the block."""
    program = require("dovecot", "dovecot-core")
    if not Path("/usr/lib/dovecot/submission").exists():
        missing("Dovecot's submission service is not installed: apt install dovecot-submissiond")
    require_root(program)
    with running_smtp_sink() as sink, open_folder("dovecot") as folder:
        ports = {Transport.PLAIN: free_port(), Transport.IMPLICIT: free_port()}
        ports[Transport.STARTTLS] = ports[Transport.PLAIN]
        (folder / "mail").mkdir()
        (folder / "mail").chmod(0o777)
        conf = folder / "dovecot.conf"
        conf.write_text(
            _CONF.format(
                folder=folder,
                chain=certificates.chain,
                key=certificates.key,
                relay=sink.ports[Transport.PLAIN],
                plain=ports[Transport.PLAIN],
                implicit=ports[Transport.IMPLICIT],
                name=LOGIN[0],
                password=LOGIN[1],
            )
        )
        command = [program, "-F", "-c", str(conf)]
        with running(command, log=folder / "log", ports=sorted(set(ports.values()))):
            yield Dovecot(folder, ports, sink)
