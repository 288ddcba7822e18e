"""What may be set, table by table. The descriptions here are the comments in `config.toml`.

Everything that comes in plural is a named table, so that the environment reaches it:
`RELAY_LISTENER__SUBMISSION__PORT=2525` is `[listener.submission] port = 2525`.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from pydantic import Field

from relay.config.hop import Hop
from relay.config.names import (
    AnyNetwork,
    BindAddress,
    DomainName,
    HostName,
    Mailbox,
    Name,
    Nameserver,
    Replacement,
    Sender,
    SenderDomain,
)
from relay.config.policy import Policy, Rules
from relay.config.queue import Bounce, Duplicates, Queue, RoleMailbox
from relay.config.table import Table
from relay.config.units import Duration, Size, Wait, Workers

Network = IPv4Network | IPv6Network
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


class Role(StrEnum):
    SUBMISSION = "submission"  # our own clients send; the client is authenticated, the mail is signed
    GATEWAY = "gateway"  # the world sends to our domains
    CAPTURE = "capture"  # everything is taken and kept in the inbox, nothing leaves


class ListenTls(StrEnum):
    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"  # TLS from the first octet (RFC 8314)


class OnTrouble(StrEnum):
    """What a recipient hears when the next hop cannot be asked about him."""

    ACCEPT = "accept"
    DEFER = "defer"


class RatePer(StrEnum):
    LOGIN = "login"
    IP = "ip"
    SENDER = "sender"


class BareNewline(StrEnum):
    REFUSE = "refuse"
    NORMALIZE = "normalize"


class LongLines(StrEnum):
    REFUSE = "refuse"
    FOLD = "fold"


class MissingKey(StrEnum):
    REFUSE = "refuse"
    PASS = "pass"


class EarlyTalker(StrEnum):
    REFUSE = "refuse"
    LOG = "log"


class Algorithm(StrEnum):
    RSA = "rsa-sha256"
    ED25519 = "ed25519-sha256"


class Mode(StrEnum):
    PROXY = "proxy"  # the client waits for the next hop's own answer
    QUEUE = "queue"  # 250 once the message is on disk


class HopTrouble(StrEnum):
    """What happens to mail that a hop does not take for now."""

    REFUSE = "refuse"  # the client hears 4xx and keeps it
    QUEUE = "queue"


class Certificate(Table):
    """A further certificate, for clients that ask for one of its names (SNI, RFC 6066 §3)."""

    certificate: Path = Field(description="PEM file with the certificate chain; its names are the ones it serves")
    key: Path = Field(description="PEM file with its key, readable by its owner only")


class Listener(Table):
    role: Role = Field(description="submission | gateway | capture")
    host: BindAddress = Field("127.0.0.1", description="address to bind")
    port: int = Field(ge=0, le=65535, description="port to bind; 0 picks a free one")
    tls: ListenTls = Field(ListenTls.NONE, description="none | starttls | implicit")
    certificate: Path | None = Field(None, examples=["tls.pem"], description="PEM file with the certificate chain")
    key: Path | None = Field(
        None, examples=["tls.key"], description="PEM file with the certificate's key, readable by its owner only"
    )
    sni: dict[Name, Certificate] = Field(
        default_factory=dict,
        examples=[{"other": {"certificate": "other.pem", "key": "other.key"}}],
        description="further certificates, chosen by the name the client asks for",
    )
    require_tls: bool = Field(False, description="with starttls: refuse mail and logins before STARTTLS")
    proxy_from: tuple[AnyNetwork, ...] = Field(
        (), description="load balancers that say who the client is (PROXY v1, v2); then nobody else may connect"
    )
    allow: tuple[AnyNetwork, ...] = Field((), description="submission: networks that may send without a login")
    senders: tuple[Sender, ...] = Field(
        (), description='submission: what those networks may send as: addresses, "@domain", or "*"'
    )
    domains: tuple[DomainName, ...] = Field((), description="gateway: the domains that mail is taken for")
    recipients: Path | None = Field(
        None,
        examples=["recipients"],
        description='gateway: file of the recipients there are, one a line: an address or "@domain"',
    )
    verify_recipients: bool = Field(
        False, description="gateway: ask the next hop at RCPT whether it knows the recipient; see [verify]"
    )
    allow_plaintext_login: bool = Field(False, description="take passwords without TLS; loads only on loopback")
    max_message_size: Size = Field(25 * 1024**2, gt=0, description="larger messages get 552")
    bare_newline: BareNewline = Field(
        BareNewline.REFUSE, description="submission: refuse | normalize messages with bare CR or LF"
    )
    long_lines: LongLines = Field(
        LongLines.REFUSE, description="submission: refuse | fold lines over 998 octets, before signing"
    )


# Keys that mean nothing in another role.
ROLE_KEYS = {
    "allow": (Role.SUBMISSION,),
    "senders": (Role.SUBMISSION,),
    "bare_newline": (Role.SUBMISSION,),
    "long_lines": (Role.SUBMISSION,),
    "domains": (Role.GATEWAY,),
    "recipients": (Role.GATEWAY,),
    "verify_recipients": (Role.GATEWAY,),
    "allow_plaintext_login": (Role.SUBMISSION, Role.CAPTURE),
}


class Login(Table):
    file: Path | None = Field(
        None,
        examples=["logins"],
        description="one login a line: `name: hash sender …`; the hash is made by `relay password`",
    )
    hashes_at_once: int = Field(2, ge=1, description="password hashes at once; beyond that 454")
    remember: Duration = Field(300.0, description="how long a verified login costs no new hash")
    failures: int = Field(10, ge=1, description="failed logins for one name, or from one address, then 454 ...")
    failures_window: Duration = Field(600.0, gt=0, description="... as long as so many lie within this time")


class Delay(Table):
    greeting: dict[Name, Duration] = Field(
        default_factory=dict,
        examples=[{"gateway": "25s"}],
        description='how long each listener waits before its 220, e.g. { gateway = "25s" }',
    )
    early_talker: EarlyTalker = Field(
        EarlyTalker.REFUSE, description="refuse | log clients that speak during that wait"
    )
    error: Duration = Field(1.0, description="how long the answer to a faulty command is held back ...")
    error_after: int = Field(3, ge=0, description="... once a session has made this many errors")
    skip: tuple[AnyNetwork, ...] = Field(LOOPBACK, description="networks that no delay of this table applies to")
    max_sleeping: int = Field(500, ge=0, description="sessions held back at once; above this every delay is 0")


class Limit(Table):
    connections: int = Field(1000, ge=1, description="client connections, over all listeners")
    connections_per_ip: int = Field(
        20, ge=1, description="client connections from one address to a gateway; loopback and `exempt` are free"
    )
    exempt: tuple[AnyNetwork, ...] = Field((), description="networks without a limit per address")
    recipients: int = Field(1000, ge=100, description="recipients of a message; the rest get 452 (RFC 5321 §4.5.3.1.8)")
    errors: int = Field(10, ge=1, description="errors in a session, then 421")
    junk: int = Field(100, ge=1, description="commands without mail (NOOP, RSET, EHLO ...) in a row, then 421")
    login_failures: int = Field(3, ge=1, description="failed logins in a session, then 421")
    received: int = Field(50, ge=10, description="Received fields; more are a loop")
    received_own: int = Field(3, ge=1, description="Received fields by our own hostname; so many are a loop")
    memory: Size = Field(512 * 1024**2, gt=0, description="octets of messages in memory at once; beyond that 452")


class Rate(Table):
    """Sliding windows. Who is above a rate hears 4xx and sends again later; nobody is locked out."""

    per: RatePer = Field(description="login | ip | sender")
    window: Duration = Field(3600.0, gt=0, description="length of the window")
    messages: int = Field(0, ge=0, description="messages in it; 0: any number")
    recipients: int = Field(0, ge=0, description="recipients in it; 0: any number")
    listener: tuple[str, ...] = Field((), description="names of listeners; none: any")


class Stress(Table):
    """In force while more connections are open than `above` says: the same settings, harsher."""

    above: int = Field(80, ge=1, le=100, description="percent of limit.connections")
    command: Wait = Field(60.0, description="for timeout.command")
    data_idle: Wait = Field(60.0, description="for timeout.data_idle")
    errors: int = Field(3, ge=1, description="for limit.errors")
    junk: int = Field(20, ge=1, description="for limit.junk")
    login_failures: int = Field(1, ge=1, description="for limit.login_failures")


class Verify(Table):
    """Answers of next hops about recipients, for listeners with verify_recipients."""

    positive: Duration = Field(31 * 86400.0, gt=0, description="how long a known recipient stays known")
    positive_refresh: Duration = Field(7 * 86400.0, gt=0, description="how old it is when it is asked for again")
    negative: Duration = Field(3 * 86400.0, gt=0, description="how long an unknown recipient stays unknown")
    negative_refresh: Duration = Field(3 * 3600.0, gt=0, description="how old it is when it is asked for again")
    on_trouble: OnTrouble = Field(
        OnTrouble.ACCEPT, description="accept | defer a recipient whom the hop cannot be asked about"
    )
    keep: int = Field(
        100_000, ge=1, description="answers kept; the oldest go first, of unknown recipients before the others"
    )


class Key(Table):
    selector: DomainName = Field(description="the selector (RFC 6376 §3.1)")
    file: Path = Field(description="PEM file with the private key, readable by its owner only")
    algorithm: Algorithm = Field(Algorithm.RSA, description="rsa-sha256 | ed25519-sha256")
    generate: bool = Field(False, description="make the key at start if the file is missing")


class Domain(Table):
    """The From field says which domain signs: the one it names, or the closest above it."""

    name: DomainName = Field(description="mail from this domain and its subdomains is signed")
    on_missing_key: MissingKey = Field(
        MissingKey.REFUSE, description="refuse | pass, unsigned, a message whose key cannot be used"
    )
    key: dict[Name, Key] = Field(default_factory=dict, description="its keys; each one makes a signature")


class Masquerade(Table):
    """Addresses rewritten before signing, in MAIL FROM, From and Sender. The first table that matches counts."""

    match: tuple[Sender, ...] = Field(min_length=1, description='the senders rewritten: addresses, "@domain", or "*"')
    address: Replacement = Field(description='the address instead, or "@domain" to change the domain alone')
    listener: tuple[str, ...] = Field((), description="names of listeners; none: any submission listener")


class Route(Table):
    """The first route, from the top, all of whose conditions hold, names the hop. Capture listeners have none."""

    hop: str = Field(description="the name of a [hop.…] table")
    listener: tuple[str, ...] = Field((), description="names of listeners; none: any")
    login: tuple[str, ...] = Field((), description="names of logins; none: any, or no login")
    sender: tuple[Sender, ...] = Field((), description='reverse-paths, addresses or "@domain"; none: any')
    sender_domain: tuple[SenderDomain, ...] = Field((), description='reverse-path domains, "" for <>; none: any')
    recipient_domain: tuple[DomainName, ...] = Field((), description="recipient domains; none: any")
    mode: Mode = Field(
        Mode.PROXY, description="proxy | queue: the client waits for the hop's own answer, or 250 once it is on disk"
    )
    on_trouble: HopTrouble = Field(
        HopTrouble.REFUSE, description="refuse | queue what the hop does not take for now: the client hears 4xx, or 250"
    )

    def via(self, hop: str | None) -> Route:
        """The route by another hop; None for its own."""
        return self if hop is None or hop == self.hop else self.model_copy(update={"hop": hop})


class Dns(Table):
    nameservers: tuple[Nameserver, ...] = Field((), description="address or address:port; none: the system's")


class Journal(Table):
    keep: Duration = Field(30 * 86400.0, gt=0, description="how long the facts about a message stay")


class Inbox(Table):
    keep: int = Field(10000, ge=1, description="messages kept; the oldest go first")


class Timeout(Table):
    """RFC 5321 §4.5.3.2 names the phases. dns < checks < client_patience, or it does not load."""

    client_patience: Wait = Field(
        300.0,
        description="how long a client waits behind its final dot; until our own final dot is sent,\n"
        "every wait towards the next hop ends within it",
    )
    command: Wait = Field(
        300.0,
        description="between two commands (RFC 5321 §4.5.3.2.7)",
        json_schema_extra={"group": "towards clients"},
    )
    proxy: Wait = Field(5.0, description="for the PROXY header of a load balancer")
    tls_handshake: Wait = Field(30.0, description="a client's TLS handshake")
    data_idle: Wait = Field(180.0, description="between two blocks of a message (§4.5.3.2.5)")
    data_min_rate: Size = Field(500, description="octets a second that a message must keep up after the first minute")
    write: Wait = Field(60.0, description="for a client to take our replies")
    connect: Wait = Field(
        30.0, description="TCP connect, for each host", json_schema_extra={"group": "towards next hops"}
    )
    greeting: Wait = Field(300.0, description="its 220 (§4.5.3.2.1)")
    ehlo: Wait = Field(300.0, description="EHLO")
    starttls: Wait = Field(60.0, description="STARTTLS and the handshake")
    auth: Wait = Field(60.0, description="login, and the token for it")
    mail: Wait = Field(300.0, description="MAIL (§4.5.3.2.2)")
    rcpt: Wait = Field(300.0, description="RCPT (§4.5.3.2.3)")
    data: Wait = Field(120.0, description="its 354 (§4.5.3.2.4)")
    data_block: Wait = Field(180.0, description="each block sent (§4.5.3.2.5)")
    final_dot: Wait = Field(600.0, description="its answer to the final dot (§4.5.3.2.6), whatever the client does")
    quit: Wait = Field(5.0, description="RSET and QUIT")
    dns: Wait = Field(5.0, description="one DNS question", json_schema_extra={"group": "inside"})
    checks: Wait = Field(20.0, description="all checks of one message together")
    drain: Wait = Field(30.0, description="for messages in flight when the relay stops")


class Log(Table):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug | info | warning | error")
    format: Literal["text", "json"] = Field("text", description="text | json, to standard error")


class Web(Table):
    host: BindAddress = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    port: int = Field(8025, ge=0, le=65535, description="its port; 0 picks a free one")


class Config(Table):
    """The tables stand in the order of the mail's way."""

    hostname: HostName = Field(
        examples=["relay.example.org"],
        description="our name, in banner, EHLO, Received, Authentication-Results and Message-ID",
    )
    data: Path = Field(Path("data"), description="folder for all that is kept; RELAY_DATA")
    workers: Workers = Field(1, description='processes that take and send mail; "auto": one for each CPU')
    postmaster: Mailbox | None = Field(
        None, examples=["postmaster@example.org"], description="the address behind `RCPT TO:<Postmaster>`"
    )
    listener: dict[Name, Listener] = Field(min_length=1, description="where mail comes in")
    login: Login = Field(default_factory=Login, description="who may log in")
    delay: Delay = Field(default_factory=Delay, description="how long clients are held back on purpose")
    limit: Limit = Field(default_factory=Limit, description="how much of anything there may be")
    rate: dict[Name, Rate] = Field(
        default_factory=dict,
        examples=[{"login": {"per": "login", "window": "1 h", "messages": 500, "recipients": 2000}}],
        description="how much mail one client may send in a time",
    )
    stress: Stress = Field(default_factory=Stress, description="what changes under load")
    verify: Verify = Field(default_factory=Verify, description="what is remembered of recipients")
    dns: Dns = Field(default_factory=Dns, description="whom the checks of a gateway ask")
    policy: Policy = Field(default_factory=Policy, description="what follows from the checks of a gateway")
    shadow: Rules | None = Field(
        None,
        examples=[{"dmarc": {"reject": True}}],
        description="rules tried beside [policy]",
    )
    masquerade: dict[Name, Masquerade] = Field(
        default_factory=dict,
        examples=[{"internal": {"match": ["@internal.example.org"], "address": "@example.org"}}],
        description="senders rewritten before signing",
    )
    domain: dict[Name, Domain] = Field(default_factory=dict, description="what we sign for")
    route: dict[Name, Route] = Field(default_factory=dict, description="which hop takes which recipient")
    hop: dict[Name, Hop] = Field(default_factory=dict, description="where mail goes")
    queue: Queue = Field(default_factory=Queue, description="mail that waits: durable until done")
    bounce: Bounce = Field(default_factory=Bounce, description="what senders hear of mail that failed")
    role_mailbox: RoleMailbox = Field(
        default_factory=RoleMailbox, description="postmaster, abuse and other roles of our domains"
    )
    duplicates: Duplicates = Field(default_factory=Duplicates, description="the same message again")
    inbox: Inbox = Field(default_factory=Inbox, description="the relay's own store, behind a hop of kind inbox")
    journal: Journal = Field(default_factory=Journal, description="what `relay explain` tells of")
    timeout: Timeout = Field(default_factory=Timeout, description="how long anything may take")
    log: Log = Field(default_factory=Log, description="what the relay says of itself")
    web: Web = Field(default_factory=Web, description="health and metrics")
