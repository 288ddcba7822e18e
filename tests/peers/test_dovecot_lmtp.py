"""Dovecot's LMTP as the mailbox server: each recipient gets his own answer, and Dovecot sees the real client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.dovecot_lmtp import DOMAIN, FULL, GOOD, OTHER, UNKNOWN, DovecotLmtp, running_dovecot_lmtp
from tests.support.haproxy import HAProxy, Way, running_haproxy
from tests.support.mail import make_mail, with_token
from tests.support.relay_process import RelayProcess, running_relay
from tests.support.retrying import send_until_settled

SENDER = "ann@client.example"


def tables(port: int, identify: str = "none") -> dict[str, object]:
    """A gateway before Dovecot's LMTP at `port`; asking, it has the recipients verified."""
    gateway = {"role": "gateway", "domains": [DOMAIN]}
    proxied = {**gateway, "proxy_from": ["127.0.0.0/8"]}
    hop = {"kind": "lmtp", "host": ["127.0.0.1"], "port": port, "tls": "none", "identify": identify}
    return {
        "listener": {"trusting": gateway, "asking": {**gateway, "verify_recipients": True}, "proxied": proxied},
        "hop": {"dovecot": hop},
        "route": {"all": {"hop": "dovecot"}},
    }


class Answering:
    """Dovecots that refuse the full mailbox at RCPT or after the message, for now or for good; a relay before each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._made: dict[tuple[bool, bool], tuple[DovecotLmtp, RelayProcess]] = {}

    def __call__(self, *, at_rcpt: bool, for_now: bool = False) -> tuple[DovecotLmtp, RelayProcess]:
        key = at_rcpt, for_now
        if key not in self._made:
            dovecot = self._stack.enter_context(running_dovecot_lmtp(check_quota=at_rcpt, tempfail=for_now))
            folder = self._folder / f"{at_rcpt} {for_now}"
            self._made[key] = dovecot, self._stack.enter_context(running_relay(folder, tables(dovecot.port)))
        return self._made[key]


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    with ExitStack() as stack:
        yield Answering(tmp_path_factory.mktemp("lmtp"), stack)


@pytest.mark.xdist_group("dovecot lmtp")
@pytest.mark.parametrize("listener", ["trusting", "asking"])
@pytest.mark.parametrize("at_rcpt", [True, False], ids=["quota at RCPT", "quota after the message"])
def test_each_recipient_gets_his_own_answer(at_rcpt: bool, listener: str, answering: Answering) -> None:
    dovecot, relay = answering(at_rcpt=at_rcpt)
    mail = make_mail(SENDER, GOOD, b"hello\r\n")
    settled = send_until_settled(relay.ports[listener], SENDER, [GOOD, FULL, UNKNOWN], mail.content)
    about = f"{settled}\n{relay.log}\n{dovecot.log}"
    assert settled.last[GOOD].startswith("250"), about
    assert settled.last[FULL].startswith("552 5.2.2"), about
    assert settled.last[UNKNOWN].startswith("550 5.1.1"), about
    assert len(with_token(dovecot.received(GOOD), mail.token)) == 1, about
    assert dovecot.received(FULL) == [], about


@pytest.mark.xdist_group("dovecot lmtp")
def test_an_unknown_recipient_is_refused_at_once_when_dovecot_is_asked(answering: Answering) -> None:
    """And those beside him get the mail in the same transaction."""
    dovecot, relay = answering(at_rcpt=False)
    mail = make_mail(SENDER, GOOD, b"hello\r\n")
    settled = send_until_settled(relay.ports["asking"], SENDER, [UNKNOWN, GOOD, OTHER], mail.content, tries=1)
    assert [settled.last[one][:3] for one in (UNKNOWN, GOOD, OTHER)] == ["550", "250", "250"], relay.log
    assert [len(with_token(dovecot.received(one), mail.token)) for one in (GOOD, OTHER)] == [1, 1]


@pytest.mark.xdist_group("dovecot lmtp")
@pytest.mark.parametrize("listener", ["trusting", "asking"])
@pytest.mark.parametrize("at_rcpt", [True, False], ids=["quota at RCPT", "quota after the message"])
@pytest.mark.parametrize(("recipient", "reply"), [(FULL, "552 5.2.2"), (UNKNOWN, "550 5.1.1"), (GOOD, "250")])
def test_a_recipient_on_his_own_gets_his_answer_in_the_first_session(
    recipient: str, reply: str, at_rcpt: bool, listener: str, answering: Answering
) -> None:
    _, relay = answering(at_rcpt=at_rcpt)
    mail = make_mail(SENDER, recipient, b"hello\r\n")
    settled = send_until_settled(relay.ports[listener], SENDER, [recipient], mail.content, tries=1)
    assert settled.last[recipient].startswith(reply), f"{settled}\n{relay.log}"


@pytest.mark.xdist_group("dovecot lmtp")
@pytest.mark.parametrize("at_rcpt", [True, False], ids=["quota at RCPT", "quota after the message"])
def test_a_mailbox_that_is_full_for_now_keeps_nobody_else_waiting(at_rcpt: bool, answering: Answering) -> None:
    """452: the client goes on trying; the good recipients have their one copy long before."""
    dovecot, relay = answering(at_rcpt=at_rcpt, for_now=True)
    mail = make_mail(SENDER, GOOD, b"hello\r\n")
    settled = send_until_settled(relay.ports["trusting"], SENDER, [GOOD, FULL, OTHER], mail.content, tries=8)
    about = f"{settled}\n{relay.log}\n{dovecot.log}"
    assert settled.open == [FULL], about
    assert settled.last[FULL].startswith("452"), about
    assert settled.last[GOOD].startswith("250") and settled.last[OTHER].startswith("250"), about
    assert [len(with_token(dovecot.received(one), mail.token)) for one in (GOOD, OTHER)] == [1, 1], about


@pytest.mark.xdist_group("dovecot lmtp")
def test_the_same_mail_again_is_a_mail_of_its_own(answering: Answering) -> None:
    """What was settled after a 451 is settled once: who sends the same octets later is not taken for a retry."""
    dovecot, relay = answering(at_rcpt=False)
    mail = make_mail(SENDER, GOOD, b"hello\r\n")
    for copies in (1, 2):
        settled = send_until_settled(relay.ports["trusting"], SENDER, [GOOD, FULL], mail.content)
        assert settled.last[GOOD].startswith("250"), relay.log
        assert len(with_token(dovecot.received(GOOD), mail.token)) == copies, f"{relay.log}\n{dovecot.log}"


SOURCES = {"first": "192.0.2.7", "second": "198.51.100.9", "sixth": "2001:db8::7"}


class Behind:
    """HAProxy → relay → Dovecot, which learns of the client by `identify`."""

    def __init__(self, folder: Path, identify: str, stack: ExitStack) -> None:
        self.dovecot = stack.enter_context(running_dovecot_lmtp())
        port = self.dovecot.proxied if identify == "proxy-v2" else self.dovecot.port
        self.relay = stack.enter_context(running_relay(folder, tables(port, identify)))
        ways = {name: Way(self.relay.ports["proxied"], source) for name, source in SOURCES.items()}
        self.haproxy: HAProxy = stack.enter_context(running_haproxy(ways))


@pytest.mark.parametrize("identify", ["xclient", "proxy-v2"])
def test_dovecot_sees_the_real_client(identify: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        behind = Behind(tmp_path, identify, stack)
        # Each a second time, when the relay has kept connections that were another client's.
        for name in (*SOURCES, *SOURCES):
            mail = make_mail(SENDER, GOOD, b"hello\r\n")
            settled = send_until_settled(behind.haproxy.ports[name], SENDER, [GOOD], mail.content)
            about = f"{settled}\n{behind.relay.log}\n{behind.dovecot.log}"
            assert settled.last[GOOD].startswith("250"), about
            (arrived,) = with_token(behind.dovecot.received(GOOD), mail.token)
            # Of the Received fields Dovecot's is the first, the relay's the second.
            by_dovecot, by_relay = arrived.split(b"\r\nReceived: ")[1:3]
            assert f"([{SOURCES[name]}])".encode() in by_dovecot, about
            literal = SOURCES[name] if "." in SOURCES[name] else f"IPv6:{SOURCES[name]}"
            assert f"[{literal}]".encode() in by_relay, about


@pytest.mark.parametrize("identify", ["xclient", "proxy-v2"])
def test_each_recipient_gets_his_own_answer_behind_a_load_balancer_too(identify: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        behind = Behind(tmp_path, identify, stack)
        mail = make_mail(SENDER, GOOD, b"hello\r\n")
        recipients = [GOOD, FULL, UNKNOWN]
        settled = send_until_settled(behind.haproxy.ports["first"], SENDER, recipients, mail.content)
        about = f"{settled}\n{behind.relay.log}\n{behind.dovecot.log}"
        assert [settled.last[one][:3] for one in recipients] == ["250", "552", "550"], about
        assert len(with_token(behind.dovecot.received(GOOD), mail.token)) == 1, about
