"""Which hop takes a recipient: the first route from the top whose conditions all hold."""

from ipaddress import ip_address

import pytest

from relay.address import Address
from relay.config.models import Route
from relay.envelope import Client, Envelope
from relay.forward.route import choose

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


@pytest.mark.parametrize(("listener", "sender", "domain", "expected"), ROWS)
def test_the_first_route_that_fits(listener: str, sender: Address | None, domain: str, expected: str | None) -> None:
    envelope = Envelope("id", Client(listener, "gateway", ip_address("127.0.0.1"), 1), sender)
    assert choose(ROUTES, envelope, Address("b", domain)) == expected


def test_a_route_without_conditions_takes_the_rest() -> None:
    envelope = Envelope("id", Client("gateway", "gateway", ip_address("127.0.0.1"), 1), None)
    assert choose(ROUTES | {"rest": Route(hop="rest")}, envelope, Address("b", "nowhere.example")) == "rest"
    assert choose({}, envelope, Address("b", "nowhere.example")) is None
