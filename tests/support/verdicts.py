"""Verdicts on a message, told by what differs from the plainest ones."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from relay.verdict import (
    ArcResult,
    ArcVerdict,
    DkimResult,
    DkimVerdict,
    DmarcResult,
    DmarcVerdict,
    IprevResult,
    IprevVerdict,
    SpfResult,
    SpfVerdict,
    Verdicts,
)

PLAIN = Verdicts(
    spf=SpfVerdict(SpfResult.NONE, "example.org"),
    helo=SpfVerdict(SpfResult.NONE, "client.example.org", "helo"),
    dkim=(),
    arc=ArcVerdict(ArcResult.NONE),
    dmarc=DmarcVerdict(DmarcResult.NONE, "example.org"),
    iprev=IprevVerdict(IprevResult.PASS, ip_address("192.0.2.1"), "client.example.org"),
)


def signed(domain: str, result: str = "pass") -> DkimVerdict:
    return DkimVerdict(DkimResult(result), domain, "sel", "rsa-sha256", 2048, f"@{domain}", "Qgi/FoC0")


def verdicts(**results: Any) -> Verdicts:
    """`verdicts(spf="fail", dkim=[signed("example.org")], dmarc=DmarcVerdict(…))`: a word alone replaces the result."""
    kinds = {"spf": SpfResult, "helo": SpfResult, "arc": ArcResult, "dmarc": DmarcResult, "iprev": IprevResult}
    changes: dict[str, Any] = {}
    for name, found in results.items():
        if isinstance(found, str):
            changes[name] = replace(getattr(PLAIN, name), result=kinds[name](found))
        else:
            changes[name] = tuple(found) if name == "dkim" else found
    return replace(PLAIN, **changes)
