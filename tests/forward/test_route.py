"""Which hop takes a recipient: the first route from the top whose conditions all hold."""

from ipaddress import ip_address

import pytest

from relay.address import Address
from relay.config.models import Config, Route
from relay.envelope import Client, Envelope
from relay.forward.route import choose as route
from relay.forward.route import reachable

ROUTES = {
    "bounces": Route(hop="bounces", sender_domain=("",), recipient_domain=("example.com",)),
    "mailbox": Route(hop="mailbox", recipient_domain=("Example.COM", "münchen.example")),
    "partner": Route(hop="partner", listener=("submission",), sender_domain=("shop.example",)),
    "capture": Route(hop="inbox", listener=("capture",)),
}
SHOP, OTHER = Address("a", "Shop.Example"), Address("a", "else.example")

ROWS = [
    ("gateway", OTHER, "example.com", "mailbox"),
    ("gateway", OTHER, "EXAMPLE.com", "mailbox"),  # RFC 5321 §2.4: domains without regard to case
    ("gateway", None, "example.com", "bounces"),  # the first that fits, and <> is ""
    ("gateway", None, "münchen.example", "mailbox"),
    ("gateway", OTHER, "xn--mnchen-3ya.example", "mailbox"),  # RFC 5890: the same domain
    ("gateway", OTHER, "MÜNCHEN.example", "mailbox"),
    ("gateway", OTHER, "sub.example.com", None),  # a domain is not its subdomains
    ("gateway", OTHER, "notexample.com", None),
    ("submission", SHOP, "away.example", "partner"),
    ("gateway", SHOP, "away.example", None),  # all conditions must hold
    ("submission", OTHER, "away.example", None),
    ("submission", None, "away.example", None),
    ("capture", None, "away.example", "inbox"),
    ("capture", SHOP, "example.com", "mailbox"),
]


def hop(routes: dict[str, Route], envelope: Envelope, recipient: Address) -> str | None:
    found = route(routes, envelope, recipient)
    return found.hop if found else None


@pytest.mark.parametrize(("listener", "sender", "domain", "expected"), ROWS)
def test_the_first_route_that_fits(listener: str, sender: Address | None, domain: str, expected: str | None) -> None:
    envelope = Envelope("id", Client(listener, "gateway", ip_address("127.0.0.1"), 1), sender)
    assert hop(ROUTES, envelope, Address("b", domain)) == expected


def test_a_route_without_conditions_takes_the_rest() -> None:
    envelope = Envelope("id", Client("gateway", "gateway", ip_address("127.0.0.1"), 1), None)
    assert hop(ROUTES | {"rest": Route(hop="rest")}, envelope, Address("b", "nowhere.example")) == "rest"
    assert route({}, envelope, Address("b", "nowhere.example")) is None


PER_SENDER = {
    "app": Route(hop="app", login=("app", "cron")),
    "address": Route(hop="address", sender=("Boss@Shop.Example", '"a.b"@x.example')),
    "domain": Route(hop="domain", sender=("@shop.example", "@münchen.example"), recipient_domain=("away.example",)),
    "both": Route(hop="both", login=("crm",), sender=("@crm.example",)),
    "anybody": Route(hop="anybody", listener=("open",), sender=("*",)),
}


@pytest.mark.parametrize(
    ("listener", "login", "sender", "expected"),
    [
        ("l", "app", "x@y.example", "app"),
        ("l", "App", "x@y.example", None),  # a login is not a mailbox: its case counts
        ("l", None, "boss@shop.example", "address"),
        ("l", None, "BOSS@SHOP.example", "address"),
        ("l", None, "a.b@x.example", "address"),  # RFC 5321 §4.1.2: the quotes are not part of the name
        ("l", None, "clerk@shop.example", "domain"),
        ("l", None, "clerk@sub.shop.example", None),  # as in `accept.login.may_send_as`
        ("l", None, "x@xn--mnchen-3ya.example", "domain"),
        ("l", "crm", "x@crm.example", "both"),
        ("l", "else", "x@crm.example", None),
        ("l", "crm", "x@shop.example", "domain"),
        ("l", None, None, None),  # <> is nobody's address
        ("open", None, None, "anybody"),
        ("open", "crm", "x@y.example", "anybody"),
    ],
)
def test_a_route_by_login_and_by_sender(
    listener: str, login: str | None, sender: str | None, expected: str | None
) -> None:
    reverse_path = Address(*sender.split("@")) if sender else None
    envelope = Envelope("id", Client(listener, "submission", ip_address("127.0.0.1"), 1, login=login), reverse_path)
    assert hop(PER_SENDER, envelope, Address("b", "away.example")) == expected


def test_where_the_mail_of_a_listener_may_go() -> None:
    """EHLO promises no more than all of these take."""
    local = {"host": ["127.0.0.1"], "tls": "none"}
    config = Config.model_validate(
        {
            "hostname": "relay.test",
            "listener": {
                "world": {"role": "gateway", "port": 0, "domains": ["example.com"]},
                "apps": {"role": "submission", "port": 0, "allow": ["127.0.0.0/8"]},
                "dev": {"role": "capture", "port": 0},
            },
            "route": {"in": {"hop": "mailbox", "listener": ["world"]}, "out": {"hop": "out", "listener": ["apps"]}},
            "hop": dict.fromkeys(("mailbox", "out", "roles", "junk"), local),
            "role_mailbox": {"address": "ops@example.com", "hop": "roles"},
            "policy": {"quarantine_hop": "junk"},
        }
    )
    assert reachable(config) == {
        "world": {"mailbox", "roles", "junk"},
        "apps": {"out", "roles"},
        "dev": set(),
    }
