"""Pure: how much of the Internet a list of networks holds, and whether an address is our own.

STANDARDS  RFC 6890 (addresses that are not the Internet), RFC 4291 §2.5.5.2 and RFC 6052 §2.1
           (IPv4 inside IPv6), RFC 6761 §6.3 (localhost).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MOST_IPV4 = 2**24  # a /8: no organisation's clients need more of it
MOST_IPV6 = 2**96  # a /32: what a provider gets

_NOT_INTERNET = [
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/3"),
    )
]
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_IPV4_INSIDE = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of where we run. names: what it calls itself; is_own: the address is one of its own."""

    names: frozenset[str]
    is_own: Callable[[Address], bool]


def this_machine() -> Machine:
    return Machine(frozenset({socket.gethostname().lower()}), _is_own)


def is_internet(networks: Iterable[Network]) -> bool:
    """The networks, summed, hold more than a /8 of the IPv4 Internet or a /32 of IPv6's."""
    four: list[IPv4Network] = []
    six: list[IPv6Network] = []
    for network in networks:
        if isinstance(network, IPv4Network):
            four.append(network)
        else:
            six.append(network)
            four += [_ipv4_inside(network, prefix) for prefix in _IPV4_INSIDE if network.overlaps(prefix)]
    ipv4 = sum(_public(network) for network in collapse_addresses(four))
    ipv6 = sum(
        min(network.num_addresses, _GLOBAL_IPV6.num_addresses)
        for network in collapse_addresses(six)
        if network.overlaps(_GLOBAL_IPV6)
    )
    return ipv4 > MOST_IPV4 or ipv6 > MOST_IPV6


def is_loopback(host: str) -> bool:
    """`host`, as a listener or a hop has it, cannot be reached from, or reach, another machine."""
    found = addresses(host)
    return bool(found) and all(address.is_loopback for address in found)


def is_public(host: str) -> bool:
    """`host` is spelled as an address on the Internet. DNS is not asked about names."""
    return any(
        not any(address in block for block in _NOT_INTERNET) if address.version == 4 else address in _GLOBAL_IPV6
        for address in addresses(host)
    )


def addresses(host: str) -> frozenset[Address]:
    """The addresses that `host` spells without asking DNS; none for a name."""
    name = host.lower().removesuffix(".")
    if name in ("localhost", "ip6-localhost") or name.endswith(".localhost"):
        return frozenset({IPv4Address("127.0.0.1"), IPv6Address("::1")})
    try:
        address = ip_address(host)
    except ValueError:
        try:  # `127.1`, `0x7f000001`: the C library takes them, so connecting does
            address = IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return frozenset()
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return frozenset({address})


def is_same(listener: str, hop: str, hostname: str, machine: Machine) -> bool:
    """A connection to the host `hop` would reach what listens on `listener`, the port being equal.

    DNS is not asked: a loop by way of a foreign name is found by its Received fields.
    """
    bound, names = addresses(listener), {hostname.lower(), *machine.names}
    if hop.lower().removesuffix(".") in names - {"localhost", ""}:
        return not all(address.is_loopback for address in bound)
    for address in addresses(hop):
        if address.is_unspecified:  # connects to this machine
            address = IPv4Address("127.0.0.1") if address.version == 4 else IPv6Address("::1")
        if address in bound:
            return True
        own = address.is_loopback or machine.is_own(address)
        if own and any(one.is_unspecified and one.version == address.version for one in bound):
            return True
    return False


def _public(network: IPv4Network) -> int:
    """How many of its addresses are on the Internet."""
    inside = sum(min(network.num_addresses, block.num_addresses) for block in _NOT_INTERNET if network.overlaps(block))
    return max(network.num_addresses - inside, 0)


def _ipv4_inside(network: IPv6Network, prefix: IPv6Network) -> IPv4Network:
    if network.prefixlen <= 96:
        return IPv4Network("0.0.0.0/0")
    first = int(network.network_address) - int(prefix.network_address)
    return IPv4Network((first, network.prefixlen - 96))


def _is_own(address: Address) -> bool:
    """Only an own address can be bound."""
    return _can_bind(address) and not _can_bind(_STRANGER[address.version])


_STRANGER: dict[int, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}


def _can_bind(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
