"""Real clients that send one mail, behind one call: smtplib, swaks, curl, msmtp, nodemailer and PHPMailer.

Each gets the same mail and the same way to the server, and reports whether its mail was taken
and what it saw on the wire. What a client cannot do is listed in CANNOT, so that no row pretends.
"""

from __future__ import annotations

import io
import json
import os
import re
import smtplib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.mail import Mail
from tests.support.peers import missing, require

HELO = "client.example"
PATIENCE = 60  # seconds for a whole mail, 10 MB too
_HERE = Path(__file__).parent


class Transport(StrEnum):
    PLAIN = "plain"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class Auth(StrEnum):
    NONE = "none"
    PLAIN = "PLAIN"
    LOGIN = "LOGIN"


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a server on loopback. login: name and password.

    patience: seconds that the client waits for a reply; None leaves it to the client.
    """

    port: int
    certificates: Certificates
    transport: Transport = Transport.PLAIN
    auth: Auth = Auth.NONE
    login: tuple[str, str] = ("", "")
    pipelining: bool = False
    patience: int | None = PATIENCE


@dataclass(frozen=True, slots=True)
class Sent:
    """accepted: the client thinks so. refusal: the last 4xx or 5xx it saw, "" for none. transcript: for people."""

    accepted: bool
    refusal: str
    transcript: str


def send_smtplib(way: Way, mail: Mail, folder: Path) -> Sent:
    context = way.certificates.client_context()
    patience = {} if way.patience is None else {"timeout": way.patience}
    error, transcript = "", io.StringIO()
    with redirect_stderr(transcript):
        try:
            if way.transport is Transport.IMPLICIT:
                client = smtplib.SMTP_SSL("localhost", way.port, HELO, context=context, **patience)
            else:
                client = smtplib.SMTP("localhost", way.port, HELO, **patience)
            with client:
                if len(mail.content) < 100_000:
                    client.set_debuglevel(1)
                if way.transport is Transport.STARTTLS:
                    client.starttls(context=context)
                client.ehlo()
                if way.auth is not Auth.NONE:
                    client.user, client.password = way.login
                    mechanism = client.auth_plain if way.auth is Auth.PLAIN else client.auth_login
                    client.auth(way.auth, mechanism)
                options = []  # smtplib adds SIZE itself
                if mail.eight_bit and client.has_extn("8bitmime"):
                    options.append("BODY=8BITMIME")
                if mail.utf8:
                    options.append("SMTPUTF8")
                client.sendmail(mail.sender, [mail.recipient], mail.content, options)
        except smtplib.SMTPRecipientsRefused as refused:
            code, text = next(iter(refused.recipients.values()))
            error = f"{code} {text.decode(errors='replace')}"
        except smtplib.SMTPResponseException as refused:
            text = refused.smtp_error
            error = f"{refused.smtp_code} {text if isinstance(text, str) else text.decode(errors='replace')}"
        except (smtplib.SMTPException, OSError) as trouble:
            error = repr(trouble)
    return Sent(not error, error if error[:1] in "45" else "", transcript.getvalue() + error)


def require_swaks_tls() -> None:
    """swaks has TLS only with a Perl module that its package merely recommends."""
    if subprocess.run(["perl", "-MNet::SSLeay", "-e1"], capture_output=True).returncode != 0:
        missing("swaks has no TLS: apt install libnet-ssleay-perl")


def send_swaks(way: Way, mail: Mail, folder: Path) -> Sent:
    # swaks ends the data with a CRLF of its own, even behind another one.
    path = _write(folder, mail.content.removesuffix(b"\r\n"))
    command = ["--server", "localhost", "--port", str(way.port), "--helo", HELO]
    command += ["--from", mail.sender, "--to", mail.recipient, "--data", f"@{path}", "--suppress-data"]
    if way.patience is not None:
        command += ["--timeout", str(way.patience)]
    if way.transport is not Transport.PLAIN:
        require_swaks_tls()
        command.append("--tls" if way.transport is Transport.STARTTLS else "--tls-on-connect")
        command += ["--tls-verify", "--tls-ca-path", str(way.certificates.ca)]
    if way.auth is not Auth.NONE:
        command += ["--auth", way.auth, "--auth-user", way.login[0]]
        command += ["--auth-password", way.login[1]]
    if way.pipelining:
        command.append("--pipeline")
    return _run([require("swaks", "swaks"), *command], rb"^<[~ *-]*[ *] +([45]\d\d[ -].*)$")


def send_curl(way: Way, mail: Mail, folder: Path) -> Sent:
    scheme = "smtps" if way.transport is Transport.IMPLICIT else "smtp"
    options = [f'url = "{scheme}://localhost:{way.port}/{HELO}"', f'mail-from = "{mail.sender}"']
    options += [f'mail-rcpt = "{mail.recipient}"', f'upload-file = "{_write(folder, mail.content)}"']
    if way.transport is Transport.STARTTLS:
        options.append("ssl-reqd")
    if way.transport is not Transport.PLAIN:
        options.append(f'cacert = "{way.certificates.ca}"')
    if way.auth is not Auth.NONE:
        options += [f'user = "{way.login[0]}:{way.login[1]}"', f'login-options = "AUTH={way.auth}"']
    if way.patience is not None:
        options.append(f"max-time = {way.patience}")
    command = [require("curl", "curl"), "-q", "-sv", "-K", "-"]
    return _run(command, rb"^< ([45]\d\d[ -].*)$", stdin="\n".join(options).encode())


def send_msmtp(way: Way, mail: Mail, folder: Path) -> Sent:
    setting = [f"host localhost\nport {way.port}\ndomain {HELO}\nfrom {mail.sender}"]
    if way.patience is not None:
        setting.append(f"timeout {way.patience}")
    if way.transport is not Transport.PLAIN:
        setting.append(f"tls on\ntls_trust_file {way.certificates.ca}")
        setting.append(f"tls_starttls {'on' if way.transport is Transport.STARTTLS else 'off'}")
    if way.auth is not Auth.NONE:
        setting.append(f"auth {way.auth.lower()}\nuser {way.login[0]}\npassword {way.login[1]}")
    rc = folder / f"{mail.token}.msmtprc"
    rc.touch(mode=0o600)
    rc.write_text("account default\n" + "\n".join(setting) + "\n")
    command = [require("msmtp", "msmtp"), "-C", str(rc), "--debug", mail.recipient]
    return _run(command, rb"^<-- ([45]\d\d[ -].*)$", stdin=mail.content)


def send_nodemailer(way: Way, mail: Mail, folder: Path) -> Sent:
    program = require("node", "nodejs")
    environment = os.environ | {"NODE_PATH": "/usr/share/nodejs"}  # where Debian's packages are
    if subprocess.run([program, "-e", "require('nodemailer')"], capture_output=True, env=environment).returncode != 0:
        missing("nodemailer is not installed: apt install node-nodemailer")
    transport: dict[str, object] = {"host": "localhost", "port": way.port, "name": HELO}
    transport["secure"] = way.transport is Transport.IMPLICIT
    transport["ignoreTLS"] = way.transport is Transport.PLAIN
    transport["requireTLS"] = way.transport is Transport.STARTTLS
    transport["tls"] = {"ca": way.certificates.ca.read_text()}
    if way.auth is not Auth.NONE:
        transport["auth"] = {"user": way.login[0], "pass": way.login[1]}
        transport["authMethod"] = way.auth
    if way.patience is not None:
        transport |= dict.fromkeys(("greetingTimeout", "socketTimeout"), 1000 * way.patience)
    envelope = {"from": mail.sender, "to": mail.recipient, "use8BitMime": mail.eight_bit}
    given = {"transport": transport, "envelope": envelope, "file": str(_write(folder, mail.content))}
    command = [program, str(_HERE / "nodemailer.js")]
    return _run(command, rb"^refusal: (.*)$", stdin=json.dumps(given).encode(), environment=environment)


def send_phpmailer(way: Way, mail: Mail, folder: Path) -> Sent:
    program = require("php", "php-cli")
    if not Path("/usr/share/php/libphp-phpmailer").exists():
        missing("PHPMailer is not installed: apt install libphp-phpmailer")
    settings: dict[str, object] = {"Host": "localhost", "Port": way.port, "Helo": HELO, "SMTPAutoTLS": False}
    settings["SMTPOptions"] = {"ssl": {"cafile": str(way.certificates.ca)}}
    if way.transport is not Transport.PLAIN:
        settings["SMTPSecure"] = "tls" if way.transport is Transport.STARTTLS else "ssl"
    if way.auth is not Auth.NONE:
        settings |= {"SMTPAuth": True, "AuthType": way.auth, "Username": way.login[0], "Password": way.login[1]}
    if way.patience is not None:
        settings["Timeout"] = way.patience
    given = {"settings": settings, "sender": mail.sender, "recipient": mail.recipient}
    given["file"] = str(_write(folder, mail.content))
    command = [program, str(_HERE / "phpmailer.php")]
    return _run(command, rb"SERVER -> CLIENT: ([45]\d\d[ -].*)$", stdin=json.dumps(given).encode())


SEND: dict[str, Callable[[Way, Mail, Path], Sent]] = {
    "smtplib": send_smtplib,
    "swaks": send_swaks,
    "curl": send_curl,
    "msmtp": send_msmtp,
    "nodemailer": send_nodemailer,
    "phpmailer": send_phpmailer,
}

# What no row is made for, and why.
CANNOT = {
    ("smtplib", "pipelining"): "waits for each reply",
    ("curl", "pipelining"): "waits for each reply",
    ("nodemailer", "pipelining"): "waits for each reply",
    ("phpmailer", "pipelining"): "waits for each reply",
    ("msmtp", "stepwise"): "pipelines wherever it is offered, and has no switch",
    ("swaks", "utf8"): "never sends SMTPUTF8",
    ("msmtp", "utf8"): "never sends SMTPUTF8",
    ("phpmailer", "utf8"): "never sends SMTPUTF8",
}


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "mail.eml"
    path.write_bytes(content)
    return path


def _run(
    command: Sequence[str], refusal: bytes, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> Sent:
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE + 10,
        env=environment,
    )
    refusals = re.findall(refusal, done.stdout, re.MULTILINE)
    last = refusals[-1].decode(errors="replace").strip() if refusals else ""
    return Sent(done.returncode == 0, last, f"exit {done.returncode}\n" + done.stdout[-8000:].decode(errors="replace"))
