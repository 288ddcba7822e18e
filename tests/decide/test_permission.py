"""Who may hand over mail, as whom, for whom: rows of facts and the refusal."""

from ipaddress import ip_address

import pytest

from relay.address import Address, parse_mailbox
from relay.config.models import Listener
from relay.decide.permission import refuse_author, refuse_recipient, refuse_sender
from relay.envelope import Client
from relay.reply import AUTHOR_NOT_YOURS, LOGIN_FIRST, NO_RELAY, SENDER_NOT_YOURS, Reply

SUBMISSION = Listener.model_validate(
    {"role": "submission", "port": 1, "allow": ["192.0.2.0/24", "2001:db8::/32"], "senders": ["@ours.org"]}
)
GATEWAY = Listener.model_validate({"role": "gateway", "port": 1, "domains": ["ours.org", "xn--bcher-kva.org"]})
CAPTURE = Listener.model_validate({"role": "capture", "port": 1})
OURS, THEIRS = Address("ann", "ours.org"), Address("eve", "theirs.org")

SENDER = [
    # listener, client's address, login, reverse-path, what it may send as, refusal
    (SUBMISSION, "192.0.2.9", None, OURS, ["@ours.org"], None),
    (SUBMISSION, "192.0.2.9", None, THEIRS, ["@ours.org"], SENDER_NOT_YOURS),
    (SUBMISSION, "192.0.2.9", None, None, ["@ours.org"], None),  # <> is anybody's
    (SUBMISSION, "::ffff:192.0.2.9", None, OURS, ["@ours.org"], None),  # IPv4 on an IPv6 socket
    (SUBMISSION, "2001:db8::1", None, OURS, ["@ours.org"], None),
    (SUBMISSION, "198.51.100.1", None, OURS, ["@ours.org"], LOGIN_FIRST),
    (SUBMISSION, "198.51.100.1", None, None, [], LOGIN_FIRST),
    (SUBMISSION, "198.51.100.1", "app", OURS, ["ann@ours.org"], None),
    (SUBMISSION, "198.51.100.1", "app", Address("bob", "ours.org"), ["ann@ours.org"], SENDER_NOT_YOURS),
    (GATEWAY, "198.51.100.1", None, THEIRS, [], None),
    (CAPTURE, "198.51.100.1", None, THEIRS, [], None),
]


@pytest.mark.parametrize(("listener", "ip", "login", "reverse_path", "senders", "refusal"), SENDER)
def test_a_client_sends_as_itself_only(
    listener: Listener, ip: str, login: str | None, reverse_path: Address, senders: list[str], refusal: Reply | None
) -> None:
    client = Client("l", listener.role, ip_address(ip), 1, login=login)
    assert refuse_sender(listener, client, reverse_path, senders, can_log_in=True) == refusal


def test_without_logins_a_stranger_hears_that_relaying_is_not_permitted() -> None:
    client = Client("l", "submission", ip_address("198.51.100.1"), 1)
    assert refuse_sender(SUBMISSION, client, OURS, [], can_log_in=False) == NO_RELAY


RECIPIENT = [
    (GATEWAY, "ann@ours.org", None),
    (GATEWAY, "ann@OURS.org", None),
    (GATEWAY, "ann@bücher.org", None),
    (GATEWAY, "Postmaster", None),  # RFC 5321 §4.5.1
    (GATEWAY, "ann@theirs.org", NO_RELAY),
    (GATEWAY, "ann@sub.ours.org", NO_RELAY),
    (GATEWAY, "ann@ours.org.theirs.org", NO_RELAY),
    (GATEWAY, "ann@[192.0.2.1]", NO_RELAY),
    (GATEWAY, "ann%theirs.org@ours.org", NO_RELAY),
    (GATEWAY, "theirs.org!ann@ours.org", NO_RELAY),
    (GATEWAY, '"ann@theirs.org"@ours.org', NO_RELAY),
    (SUBMISSION, "ann@theirs.org", None),
    (CAPTURE, "ann@theirs.org", None),
]


@pytest.mark.parametrize(("listener", "recipient", "refusal"), RECIPIENT)
def test_a_gateway_takes_mail_for_its_own_domains_only(listener: Listener, recipient: str, refusal: Reply) -> None:
    assert refuse_recipient(listener, parse_mailbox(recipient.encode(), utf8=True)) == refusal


def test_the_from_field_is_the_clients_own_too() -> None:
    assert refuse_author(OURS, ["@ours.org"]) is None
    assert refuse_author(THEIRS, ["@ours.org"]) == AUTHOR_NOT_YOURS
