"""A gateway among strangers: Knot has the records, swaks sends, Dovecot keeps the mail, authres reads the results."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import authres
import authres.dmarc
import dkim
import pytest

from tests.support.dkim_signer import dkim_signed, record, rsa_key
from tests.support.dovecot_lmtp import DOMAIN, GOOD, DovecotLmtp, running_dovecot_lmtp
from tests.support.knot import Zone, running_knot
from tests.support.mail import Mail, make_mail, split, with_token
from tests.support.peers import require
from tests.support.relay_process import HOSTNAME, RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("gateway")

OWN, LIST, STRANGER = "192.0.2.1", "198.51.100.7", "203.0.113.66"  # addresses of RFC 5737, told by a load balancer
NAMES = {OWN: "mail.author.example", LIST: "out.list.example", STRANGER: "stranger.example"}
CLAIM = f"Authentication-Results: {HOSTNAME}; dmarc=pass header.from=author.example\r\n".encode()
CONTEXT = authres.FeatureContext(authres.dmarc)


def txt(text: str) -> str:
    """A TXT record, in strings of at most 255 octets (RFC 1035 §3.3.14)."""
    return "TXT " + " ".join(f'"{part}"' for part in re.findall(".{1,255}", text))


ZONES: dict[str, Zone] = {
    "author.example": {
        "@": [txt(f"v=spf1 ip4:{OWN} -all")],
        "_dmarc": [txt("v=DMARC1; p=reject")],
        "s._domainkey": [txt(record(rsa_key()))],
        "mail": [f"A {OWN}", txt(f"v=spf1 ip4:{OWN} -all")],
    },
    "list.example": {
        "@": [txt(f"v=spf1 ip4:{LIST} -all")],
        "s._domainkey": [txt(record(rsa_key()))],
        "out": [f"A {LIST}", txt("v=spf1 a -all")],
    },
    "2.0.192.in-addr.arpa": {"1": [f"PTR {NAMES[OWN]}."]},
    "100.51.198.in-addr.arpa": {"7": [f"PTR {NAMES[LIST]}."]},
    "113.0.203.in-addr.arpa": {"66": ["PTR mail.author.example."]},  # a name that does not point back
    "example": {},  # so that what is not in it does not exist
}


def signed(mail: Mail, domain: str) -> Mail:
    return replace(mail, content=dkim_signed(mail.content, {"d": domain, "s": "s"}))


def by_itself() -> Mail:
    return signed(make_mail("ann@author.example", GOOD, b"hello\r\n"), "author.example")


def by_a_list() -> Mail:
    """With a footer that breaks the author's signature, and one of the list's."""
    mail = by_itself()
    return signed(
        replace(mail, sender="bounces@list.example", content=mail.content + b"-- \r\nlist\r\n"), "list.example"
    )


def forged() -> Mail:
    """Not signed, with results that claim to be ours."""
    mail = make_mail("ann@author.example", GOOD, b"pay me\r\n")
    return replace(mail, content=CLAIM + mail.content)


REJECT = {"dmarc": {"reject": True}}
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "rejecting": REJECT,
    "trusting": {**REJECT, "forwarder": {"list": {"name": ["list.example"]}}},
    "monitoring": {**REJECT, "mode": "monitor"},
}
# By method, as they stand; the two of SPF are MAIL FROM and HELO.
PASSED = {"dmarc": ["pass"], "spf": ["pass", "pass"], "iprev": ["pass"], "dkim": ["pass"]}
FORWARDED = {**PASSED, "spf": ["fail", "pass"]}  # the envelope is still the author's, HELO the forwarder's own
LISTED = {**PASSED, "dmarc": ["fail"], "dkim": ["pass", "fail"]}  # the list's signature stands on top
FORGED = {"dmarc": ["fail"], "spf": ["fail", "none"], "iprev": ["fail"], "dkim": ["none"]}


class Row(NamedTuple):
    """results: of each method, in Dovecot's mailbox; None when it is refused. quarantined: says X-Relay-Quarantine."""

    policy: str
    client: str
    make: Callable[[], Mail]
    reply: str
    results: dict[str, list[str]] | None = None
    quarantined: bool = False
    reason: str | None = None  # of dmarc


ROWS = [
    Row("default", OWN, by_itself, "250", PASSED),
    Row("rejecting", OWN, by_itself, "250", PASSED),
    # An aligned signature carries it through an alias (RFC 9989 §5.3).
    Row("rejecting", LIST, by_itself, "250", FORWARDED),
    # RFC 9989 §7.4: no reject on the ground of p=reject alone.
    Row("default", LIST, by_a_list, "250", LISTED, True, "local_policy"),
    Row("rejecting", LIST, by_a_list, "550 5.7"),
    Row("trusting", LIST, by_a_list, "250", LISTED, False, "trusted_forwarder"),
    Row("monitoring", LIST, by_a_list, "250", LISTED, False, "local_policy"),
    Row("default", STRANGER, forged, "250", FORGED, True, "local_policy"),
    Row("rejecting", STRANGER, forged, "550 5.7"),
    Row("trusting", STRANGER, forged, "550 5.7"),
    Row("monitoring", STRANGER, forged, "250", FORGED, False, "local_policy"),
]


class Site(NamedTuple):
    dovecot: DovecotLmtp
    relays: dict[str, RelayProcess]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require("swaks", "swaks")
    with ExitStack() as stack:
        nameserver = f"127.0.0.1:{stack.enter_context(running_knot(ZONES))}"
        dovecot = stack.enter_context(running_dovecot_lmtp())
        relays = {}
        for name, policy in POLICIES.items():
            tables = {
                "listener": {"gateway": {"role": "gateway", "domains": [DOMAIN], "proxy_from": ["127.0.0.0/8"]}},
                "hop": {"dovecot": {"kind": "lmtp", "host": ["127.0.0.1"], "port": dovecot.port, "tls": "none"}},
                "route": {"all": {"hop": "dovecot"}},
                "dns": {"nameservers": [nameserver]},
                "policy": policy,
            }
            relays[name] = stack.enter_context(running_relay(tmp_path_factory.mktemp(name), tables))
        yield Site(dovecot, relays)


def send(port: int, client: str, mail: Mail, folder: Path) -> str:
    """Send it with swaks from `client`; the reply to the final dot."""
    path = folder / "mail"
    path.write_bytes(mail.content.removesuffix(b"\r\n"))  # swaks ends the data with a CRLF of its own
    command = [require("swaks", "swaks"), "--server", "127.0.0.1", "--port", str(port), "--helo", NAMES[client]]
    command += ["--from", mail.sender, "--to", mail.recipient, "--data", f"@{path}", "--suppress-data"]
    command += ["--proxy-family", "TCP4", "--proxy-source", client, "--proxy-source-port", "40000"]
    command += ["--proxy-dest", "192.0.2.25", "--proxy-dest-port", "25", "--timeout", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    replies = re.findall(r"^<(?:-|\*\*) +(\d{3} .*)$", done.stdout, re.MULTILINE)
    assert len(replies) > 1, done.stdout + done.stderr
    return str(replies[-2])  # the last one is to QUIT


def said(message: bytes) -> list[authres.AuthenticationResultsHeader]:
    """The Authentication-Results of the relay, as authres reads them."""
    found = [field for field in split(message)[0] if field.lower().startswith(b"authentication-results:")]
    return [one for one in (CONTEXT.parse(field.decode()) for field in found) if one.authserv_id == HOSTNAME]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.policy} {row.make.__name__} {row.client}")
def test_what_dovecot_gets(site: Site, tmp_path: Path, row: Row) -> None:
    mail, relay = row.make(), site.relays[row.policy]
    reply = send(relay.ports["gateway"], row.client, mail, tmp_path)
    assert reply.startswith(row.reply), f"{reply}\n{relay.log}"
    arrived = with_token(site.dovecot.received(GOOD), mail.token)
    if row.results is None:
        assert "author.example" in reply
        assert arrived == []
        return
    [message] = arrived
    [header] = said(message)
    found: dict[str, list[str]] = {}
    for one in header.results:
        found.setdefault(one.method, []).append(one.result)
    assert found == row.results, message.decode()
    dmarc, spf = header.results[:2]
    assert (dmarc.header_from, dmarc.reason) == ("author.example", row.reason)
    assert (spf.smtp_mailfrom, header.results[2].smtp_helo) == (mail.sender, NAMES[row.client])
    assert header.results[3].policy_iprev == row.client
    assert (b"X-Relay-Quarantine:" in message) is row.quarantined
    assert message.endswith(b"\r\n" + mail.content.removeprefix(CLAIM))


def test_what_the_author_signed_is_still_whole_in_the_mailbox(site: Site, tmp_path: Path) -> None:
    """An outsider's verifier, after the relay and Dovecot have written their fields."""
    mail, relay = by_itself(), site.relays["rejecting"]
    send(relay.ports["gateway"], OWN, mail, tmp_path)
    [message] = with_token(site.dovecot.received(GOOD), mail.token)
    keys = {b"s._domainkey.author.example.": record(rsa_key()).encode()}
    assert dkim.verify(message, dnsfunc=lambda name, timeout=5: keys.get(name))
