"""A Dovecot of our own as mailbox server: its LMTP service, with a good user, one over quota, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mail import crlf
from tests.support.peers import free_port, missing, open_folder, require, require_root, running

DOMAIN = "dovecot.example"
GOOD, OTHER, FULL, UNKNOWN = (f"{name}@{DOMAIN}" for name in ("good", "other", "full", "unknown"))

_CONF = """\
protocols = lmtp
listen = 127.0.0.1
base_dir = {folder}/run
log_path = {folder}/log
hostname = mail.dovecot.example
ssl = no
mail_location = maildir:~/mail
first_valid_uid = 1
mail_plugins = quota
lmtp_rcpt_check_quota = {check_quota}
quota_full_tempfail = {tempfail}
login_trusted_networks = 127.0.0.0/8
haproxy_trusted_networks = 127.0.0.0/8
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage=100M
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
  override_fields = uid=nobody gid=nogroup home={folder}/mail/%n
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {plain}
  }}
  inet_listener lmtp_proxied {{
    port = {proxied}
    haproxy = yes
  }}
}}
"""


class DovecotLmtp:
    """A running Dovecot. port: LMTP, where XCLIENT is believed. proxied: LMTP behind a PROXY header."""

    def __init__(self, folder: Path, port: int, proxied: int) -> None:
        self.folder = folder
        self.port = port
        self.proxied = proxied

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def received(self, user: str) -> list[bytes]:
        """All messages delivered to `user` so far, lines ending with CRLF. They are there before its 250 is said."""
        folder = self.folder / "mail" / user.partition("@")[0] / "mail" / "new"
        return [crlf(path.read_bytes()) for path in folder.glob("*")]


@contextmanager
def running_dovecot_lmtp(*, check_quota: bool = True, tempfail: bool = False) -> Iterator[DovecotLmtp]:
    """Start one, end it with the block.

    check_quota: the full mailbox is refused at RCPT already, not only after the message.
    tempfail: it is refused with 452 instead of 552.
    """
    program = require("dovecot", "dovecot-core")
    if not Path("/usr/lib/dovecot/lmtp").exists():
        missing("Dovecot's LMTP service is not installed: apt install dovecot-lmtpd")
    require_root(program)
    with open_folder("dovecot-lmtp") as folder:
        port, proxied = free_port(), free_port()
        users = [f"{GOOD}:::::::", f"{OTHER}:::::::", f"{FULL}:::::::userdb_quota_rule=*:storage=1K"]
        (folder / "users").write_text("\n".join(users) + "\n")
        _fill(folder / "mail" / "full" / "mail" / "cur")
        for path in (folder / "mail", *(folder / "mail").rglob("*")):
            shutil.chown(path, "nobody", "nogroup")
        conf = folder / "dovecot.conf"
        words = {True: "yes", False: "no"}
        conf.write_text(
            _CONF.format(
                folder=folder,
                plain=port,
                proxied=proxied,
                check_quota=words[check_quota],
                tempfail=words[tempfail],
            )
        )
        with running([program, "-F", "-c", str(conf)], log=folder / "log", ports=[port, proxied]):
            yield DovecotLmtp(folder, port, proxied)


def _fill(folder: Path) -> None:
    """One old mail, larger than the quota of 1 KB; a maildir's file names give the sizes."""
    folder.mkdir(parents=True)
    old = b"Subject: old\n\n" + b"z" * 5000 + b"\n"
    (folder / f"1.old.host,S={len(old)}:2,S").write_bytes(old)
