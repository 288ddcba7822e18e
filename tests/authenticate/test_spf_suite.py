"""The public SPF suites, every case, through the real Resolver against a DNS server on loopback.

`openspf/rfc7208-tests.yml` must agree in all its cases. The older suites must too, but for the cases named in
`_SUPERSEDED`: each of those asks for what RFC 7208 changed, or for what pyspf does beyond it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from relay.authenticate.spf import check_mail_from
from relay.resolver import Resolver
from tests.support.dns import dns_server
from tests.support.suites import suite

# (suite, case) → why the suite's expectation is not RFC 7208's.
_SUPERSEDED = {
    ("rfc4408-tests-2009-10.yml", "mx-limit"): "§4.6.4: more than 10 MX hosts are a permerror; RFC 4408 cut the list",
    ("rfc4408-tests-2009-10.yml", "mech-at-limit"): "§4.6.4: a third void lookup; RFC 4408 had no such limit",
    ("rfc4408-tests-2009-10.yml", "include-at-limit"): "§4.6.4: as above",
    ("pyspf-tests.yml", "default-modifier"): "§6: default= is an unknown modifier and ignored; pyspf obeys it when lax",
    ("pyspf-tests.yml", "default-modifier-harsh"): "as above; `ambiguous` is no result of RFC 7208 §2.6",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("rfc7208-tests.yml", 203),
        ("rfc7208-tests-2014-05.yml", 193),
        ("rfc4408-tests.yml", 191),
        ("rfc4408-tests-2009-10.yml", 172),
        ("pyspf-tests.yml", 16),
    ],
)
async def test_the_openspf_suites(name: str, cases: int) -> None:
    documents = [document for document in yaml.safe_load_all(suite("openspf", name).read_text()) if document]
    disagreements: dict[str, str] = {}
    tried = 0
    for document in documents:
        # One server and resolver a zone: the zones of a suite have names in common.
        async with dns_server(document["zonedata"]) as server:
            resolver = Resolver([server.nameserver])
            for case, given in document["tests"].items():
                tried += 1
                if problem := await _disagreement(given, resolver):
                    disagreements[case] = problem
            await resolver.close()
    assert tried == cases
    superseded = {case for suite_, case in _SUPERSEDED if suite_ == name}
    assert set(disagreements) == superseded, disagreements


async def _disagreement(given: dict[str, Any], resolver: Resolver) -> str:
    verdict = await check_mail_from(str(given["host"]), given["mailfrom"], given["helo"], resolver)
    expected = given["result"] if isinstance(given["result"], list) else [given["result"]]
    if verdict.result not in expected:
        return f"{verdict.result} ({verdict.problem}), expected {expected}: {verdict.trace}"
    if "explanation" in given:
        # DEFAULT is what an implementation says without exp=: ours is "". Nibbles may be in either case.
        text = "" if given["explanation"] == "DEFAULT" else given["explanation"]
        if verdict.explanation.lower() != text.lower():
            return f"explanation {verdict.explanation!r}, expected {text!r}"
    return ""


async def test_the_examples_of_rfc_7208_appendix_a() -> None:
    groups = list(_appendix_a(suite("rfc-examples", "rfc7208-appendix-a-spf.yml").read_text()))
    tried = 0
    for zone, checks in groups:
        async with dns_server(zone) as server:
            resolver = Resolver([server.nameserver])
            for ip, helo, sender, expected in checks:
                tried += 1
                verdict = await check_mail_from(ip, sender, helo, resolver)
                assert verdict.result == expected, (ip, helo, sender, verdict)
            await resolver.close()
    assert tried == 35


def _appendix_a(text: str) -> Iterator[tuple[dict[str, list[dict[str, Any]]], list[tuple[str, str, str, str]]]]:
    """The file's keys repeat (`ip`, `expect`, `a`), which no YAML mapping can: so it is read line by line.

    Each named test keeps the records above it, and its own; `expect` ends a check. `mx: NAME IP, IP` gives the
    addresses of the exchangers, whose names are those of the `a` records with them.
    """
    common: list[tuple[str, str]] = []
    records, checks = common, []
    domain, sender, ip = "", "", ""
    for line in text.splitlines():
        key, _, value = line.strip().removeprefix("- ").partition(": ")
        value = value.strip()
        match key:
            case "a" | "mx" | "ptr" | "spf" | "txt" | "aaaa":
                records.append((key, value))
            case "domain":
                domain = value
            case "sender":
                sender = value
            case "ip":
                ip = value
            case "expect":
                checks.append((ip, domain, sender, value))
            case "name" | "---":
                if checks:
                    yield _zone(records), checks
                if line.startswith("---") or line.startswith("name"):
                    common = records = []
                else:
                    records = list(common)
                checks = []
    if checks:
        yield _zone(records), checks


def _zone(records: list[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    zone: dict[str, list[dict[str, Any]]] = defaultdict(list)
    hosts: dict[str, str] = {}
    for kind, value in records:
        name, _, content = value.partition(" ")
        if kind == "a":
            hosts.update({address: name for address in content.split(", ") if name.startswith("mail-")})
            zone[name] += [{"A": address} for address in content.split(", ")]
        elif kind == "spf":
            zone[name].append({"TXT": content})
        elif kind == "ptr":
            address = ".".join(reversed(name.split(".")))
            zone[f"{address}.in-addr.arpa"].append({"PTR": content})
    for kind, value in records:
        name, _, content = value.partition(" ")
        if kind == "mx":
            zone[name] += [{"MX": [10, hosts[address]]} for address in content.split(", ")]
    return zone
