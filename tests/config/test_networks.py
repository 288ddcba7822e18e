"""How much of the Internet is allowed, and which hosts are this machine."""

from ipaddress import ip_address, ip_network

import pytest

from relay.config.networks import Machine, addresses, is_internet, is_loopback, is_public, is_same

MACHINE = Machine(frozenset({"thishost"}), lambda address: str(address) in ("192.0.2.7", "2001:db8::7"))


@pytest.mark.parametrize(
    "networks",
    [
        ["0.0.0.0/0"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["16.0.0.0/7"],
        ["16.0.0.0/8", "17.0.0.0/9"],  # a /8 and a half
        ["16.0.0.0/9", "16.0.0.0/8", "18.0.0.0/16"],  # counted once
        [f"{first}.0.0.0/9" for first in (20, 21, 22)],
        ["::/0"],
        ["2000::/3"],
        ["2001:4000::/31"],
        ["2001:4000::/32", "2001:4600::/48"],
        ["::ffff:0:0/96"],  # the IPv4 Internet inside IPv6
        ["::ffff:16.0.0.0/103"],
        ["::/1"],
        ["64:ff9b::/96"],  # RFC 6052 §2.1, what a NAT64 shows us
    ],
)
def test_the_internet(networks: list[str]) -> None:
    assert is_internet(map(ip_network, networks))


@pytest.mark.parametrize(
    "networks",
    [
        [],
        ["127.0.0.0/8", "::1/128"],
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"],  # RFC 6890
        ["fc00::/7", "fe80::/10"],
        ["16.0.0.0/8"],
        ["16.0.0.0/8", "16.0.0.0/8", "10.0.0.0/8"],
        ["2001:4000::/32"],
        ["::ffff:10.0.0.0/104"],
        ["224.0.0.0/3"],
    ],
)
def test_not_the_internet(networks: list[str]) -> None:
    assert not is_internet(map(ip_network, networks))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("127.1", {"127.0.0.1"}),
        ("2130706433", {"127.0.0.1"}),
        ("0x7f.1", {"127.0.0.1"}),
        ("LocalHost", {"127.0.0.1", "::1"}),
        ("localhost.", {"127.0.0.1", "::1"}),
        ("mail.localhost", {"127.0.0.1", "::1"}),  # RFC 6761 §6.3
        ("::ffff:127.0.0.1", {"127.0.0.1"}),
        ("mail.example.org", set()),
    ],
)
def test_spellings_of_an_address(host: str, expected: set[str]) -> None:
    assert addresses(host) == set(map(ip_address, expected))
    assert is_loopback(host) == bool(expected)


@pytest.mark.parametrize(
    ("listener", "hop", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("localhost", "::1", True),
        ("0.0.0.0", "127.0.0.9", True),
        ("0.0.0.0", "192.0.2.7", True),
        ("0.0.0.0", "192.0.2.8", False),
        ("0.0.0.0", "2001:db8::7", False),
        ("::", "2001:db8::7", True),
        ("::", "::1", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "relay.example.org", True),
        ("192.0.2.7", "RELAY.example.org.", True),
        ("0.0.0.0", "thishost", True),
        ("127.0.0.1", "thishost", False),
        ("0.0.0.0", "mail.example.org", False),
    ],
)
def test_whether_a_hop_is_a_listener(listener: str, hop: str, expected: bool) -> None:
    assert is_same(listener, hop, "relay.example.org", MACHINE) is expected


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("8.8.8.8", True),
        ("2600::1", True),
        ("::ffff:8.8.8.8", True),  # RFC 4291 §2.5.5.2
        ("10.0.0.1", False),
        ("100.64.0.1", False),  # RFC 6598
        ("172.31.255.255", False),
        ("172.32.0.1", True),
        ("fd00::1", False),  # RFC 4193
        ("fe80::1", False),
        ("::1", False),
        ("localhost", False),
        ("mail.example.net", False),  # nobody asked DNS
    ],
)
def test_an_address_on_the_internet(host: str, is_it: bool) -> None:
    assert is_public(host) is is_it
