"""A relay as tutorials write it: aiosmtpd's Controller, aiosmtplib.send, dkimpy and authheaders, on asyncio's loop.

`python -m bench.naive PORT SINK plain|sign|gateway KEY [CERTIFICATE KEY]`. It is a peer of the workloads, not an
example to follow: signing and checking hold the event loop, and each message opens a connection of its own.
"""

from __future__ import annotations

import ssl
import sys
import threading
from pathlib import Path

import aiosmtplib
import dkim
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from bench.network import HOST
from bench.peers.peer import Work
from bench.site import SELECTOR

HOSTNAME = "mail.example.com"


class Handler:
    def __init__(self, sink: int, work: Work, key: bytes, tls: bool) -> None:
        self.sink, self.work, self.key, self.tls = sink, work, key, tls

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = bytes(envelope.content or b"")
        if self.work is Work.SIGN:
            content = dkim.sign(content, SELECTOR.encode(), b"example.org", self.key) + content
        if self.work is Work.GATEWAY:
            content = self.results(content, session, envelope) + content
        try:
            _, answer = await aiosmtplib.send(
                content,
                sender=envelope.mail_from,
                recipients=envelope.rcpt_tos,
                hostname="127.0.0.1",
                port=self.sink,
                start_tls=self.tls,
                validate_certs=False,
            )
        except aiosmtplib.SMTPException as error:
            return f"451 {error}"
        return f"250 {answer}"

    def results(self, content: bytes, session: Session, envelope: Envelope) -> bytes:
        import authheaders  # only the gateway needs it

        field = authheaders.authenticate_message(
            content,
            HOSTNAME,
            spf=True,
            dkim=True,
            dmarc=True,
            ip=session.peer[0],
            mail_from=envelope.mail_from,
            helo=session.host_name,
        )
        return field.encode().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"


def main(port: int, sink: int, work: Work, key: Path, certificate: Path | None, secret: Path | None) -> None:
    context = None
    if certificate and secret:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, secret)
    handler = Handler(sink, work, key.read_bytes(), tls=context is not None)
    Controller(handler, hostname=HOST, port=port, tls_context=context).start()
    threading.Event().wait()


if __name__ == "__main__":
    _, port, sink, work, key, *pair = sys.argv
    chain, secret = (Path(path) for path in pair) if pair else (None, None)
    main(int(port), int(sink), Work(work), Path(key), chain, secret)
