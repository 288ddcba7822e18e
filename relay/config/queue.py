"""`[queue]`, `[bounce]`, `[role_mailbox]`, `[duplicates]`: what is kept until it is done, and what its senders hear."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr

from relay.config.names import Mailbox
from relay.config.table import Table
from relay.config.units import Duration, Size, Wait

# RFC 2142 §4, §5, and what security.txt and its kin made of "security".
ROLE_NAMES = ("postmaster", "abuse", "webmaster", "hostmaster", "security")


class Queue(Table):
    """Mail that is ours until it is delivered, reported or held. Without `url` it is one SQLite file in `data`."""

    url: SecretStr | None = Field(
        None,
        examples=["postgresql://relay@db.example.net/relay"],
        description="a PostgreSQL database that several relays share",
    )
    url_file: Path | None = Field(
        None, examples=["queue-url"], description="file that holds the url, readable by its owner only"
    )
    first_retry: Duration = Field(300.0, gt=0, description="from the first attempt to the second; then twice that ...")
    max_retry: Duration = Field(3600.0, gt=0, description="... and twice that, but never more than this")
    jitter: int = Field(20, ge=0, le=50, description="percent by which each of them varies")
    give_up: Duration = Field(5 * 86400.0, gt=0, description="when the sender is told that it failed")
    give_up_bounce: Duration = Field(86400.0, gt=0, description="when a bounce is given up, and held")
    warn: Duration | None = Field(None, gt=0, examples=["4 h"], description="when the sender is told, once, of a delay")
    crashes: int = Field(5, ge=1, description="attempts that ended with the relay; then the message is held")
    lease: Wait = Field(60.0, description="how long a relay that fell silent keeps what it had claimed")
    min_free: int = Field(5, ge=0, le=50, description="percent of the disk; with less left, mail gets 452")
    spool: Size = Field(64 * 1024**2, gt=0, description="octets of queued messages in memory at once")


class Unverified(StrEnum):
    HOLD = "hold"
    SEND = "send"
    DROP = "drop"


class Bounce(Table):
    """Reports to senders (RFC 3464), from the null reverse-path, signed, and never about a report."""

    sender: Mailbox | None = Field(
        None, examples=["postmaster@example.org"], description="its From; default: postmaster at `hostname`"
    )
    hop: str | None = Field(None, examples=["next"], description="the hop for reports; default: by the routes")
    unverified: Unverified = Field(
        Unverified.HOLD,
        description="hold | send | drop: failed mail of strangers whose domain did not pass the checks;\n"
        "to send them reports is backscatter",
    )
    max_size: Size = Field(50 * 1024, gt=0, description="of the message returned; beyond it, its header alone")


class RoleMailbox(Table):
    """Mail to postmaster@, abuse@ and their like at our domains (RFC 2142), whatever the routes say."""

    address: Mailbox | None = Field(None, examples=["ops@example.org"], description="where it goes; default: nowhere")
    names: tuple[str, ...] = Field(ROLE_NAMES, description="the local parts")
    hop: str | None = Field(None, examples=["next"], description="the hop for it; default: by the routes")


class Duplicates(Table):
    """A client that vanished behind its final dot sends again: it hears what became of the first message."""

    guard: bool = Field(True, description="for messages with a Message-ID and a Date of their own")
    keep: Duration = Field(86400.0, gt=0, description="how long that is remembered")
