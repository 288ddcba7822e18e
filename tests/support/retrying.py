"""A client that keeps its mail until each recipient is settled, as MTAs and the queues of apps do."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from dataclasses import dataclass, field

HELO = "client.example"


@dataclass(slots=True)
class Settled:
    """last: each recipient's last reply, "550 5.1.1 …". tries: transactions made. open: who would be tried again."""

    last: dict[str, str] = field(default_factory=dict)
    tries: int = 0
    open: list[str] = field(default_factory=list)


def send_until_settled(port: int, sender: str, recipients: Sequence[str], content: bytes, tries: int = 6) -> Settled:
    """Send to 127.0.0.1:`port`, again at once to those who heard a 4xx, at most `tries` times."""
    settled = Settled(open=list(recipients))
    while settled.open and settled.tries < tries:
        settled.tries += 1
        settled.last |= _send(port, sender, settled.open, content)
        settled.open = [one for one in settled.open if settled.last[one].startswith("4")]
    return settled


def _send(port: int, sender: str, recipients: Sequence[str], content: bytes) -> dict[str, str]:
    """One transaction; the reply that counts for each recipient."""
    with smtplib.SMTP("127.0.0.1", port, HELO, timeout=20) as client:
        client.ehlo()
        said = _text(client.mail(sender))
        if not said.startswith("250"):
            return dict.fromkeys(recipients, said)
        replies = {recipient: _text(client.rcpt(recipient)) for recipient in recipients}
        accepted = [recipient for recipient, reply in replies.items() if reply.startswith("250")]
        if accepted:
            try:
                replies |= dict.fromkeys(accepted, _text(client.data(content)))
            except smtplib.SMTPDataError as error:
                replies |= dict.fromkeys(accepted, _text((error.smtp_code, error.smtp_error)))
        return replies


def _text(reply: tuple[int, bytes | str]) -> str:
    code, text = reply
    return f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
