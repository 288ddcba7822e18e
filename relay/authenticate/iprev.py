"""Reverse DNS: has the client's address a name that has the address?

STANDARDS  RFC 8601 §3 (iprev), §2.7.3 (its results).
TRUSTS     nothing: who holds the address writes its name, so the name counts only once it points back.
FAILS      never: trouble is `temperror`. At most 10 names are looked up, as RFC 7208 §5.5 has it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from relay.address import domain_key
from relay.errors import DnsTrouble, NoData, NoSuchName
from relay.resolver import Questions
from relay.verdict import IprevResult, IprevVerdict

MAX_NAMES = 10


async def check_iprev(ip: str | IPv4Address | IPv6Address, helo: str, resolver: Questions) -> IprevVerdict:
    """Confirm the name of `ip`; that of `helo` before others. Raises ValueError when `ip` is none."""
    address = ip_address(ip) if isinstance(ip, str) else ip
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    try:
        names = [name.lower() for name in await resolver.ptr(address)]
    except (NoSuchName, NoData) as error:
        return IprevVerdict(IprevResult.PERMERROR, address, problem=str(error))
    except DnsTrouble as error:
        return IprevVerdict(IprevResult.TEMPERROR, address, problem=str(error))
    claimed = domain_key(helo.removesuffix("."))
    names.sort(key=lambda name: (name != claimed, name))
    trouble = ""
    for name in names[:MAX_NAMES]:
        try:
            if address in await (resolver.a(name) if address.version == 4 else resolver.aaaa(name)):
                return IprevVerdict(IprevResult.PASS, address, name, helo_agrees=name == claimed)
        except (NoSuchName, NoData):
            continue
        except DnsTrouble as error:
            trouble = str(error)
    name = names[0] if names else ""
    if trouble:
        return IprevVerdict(IprevResult.TEMPERROR, address, name, problem=trouble)
    return IprevVerdict(IprevResult.FAIL, address, name, problem=f"no name of {address} has that address")
