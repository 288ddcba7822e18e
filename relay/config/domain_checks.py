"""Domains and their keys, and the senders that are rewritten into them.

STANDARDS  RFC 6376 §3.1 (selectors).
TRUSTS     that each value is well formed; nothing in a key file.
FAILS      Findings.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.address import domain_key
from relay.config.files import attempt, dkim_key_fault, exposed, missing
from relay.config.finding import Finding, World, check_names
from relay.config.models import Config, Domain, Masquerade, Role
from relay.config.shape import Key


def check_domains(config: Config, world: World) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, domain in config.domain.items():
        key = ("domain", name)
        first = seen.setdefault(domain_key(domain.name), name)
        if first != name:
            yield Finding((*key, "name"), f"{domain.name} is already the name of [domain.{first}]")
        yield from _check_keys(key, domain, world)


def _check_keys(table: Key, domain: Domain, world: World) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, key in domain.key.items():
        place = (*table, "key", name)
        first = seen.setdefault(domain_key(key.selector), name)
        if first != name:
            yield Finding(
                (*place, "selector"), f"{key.selector} is already the selector of [{'.'.join(table)}.key.{first}]"
            )
        file, fault = attempt(world.read, key.file)
        if file:
            unfit = dkim_key_fault(file.content, key.algorithm)
            fault = exposed(file, key.file, world.user) or (unfit and f"{key.file}: {unfit}")
        elif fault == missing(key.file):
            fault = "" if key.generate else f"{fault}; make it with `relay keys new`"
        if fault:
            yield Finding((*place, "file"), fault)


def check_masquerades(config: Config) -> Iterator[Finding]:
    signed = [domain_key(domain.name) for domain in config.domain.values()]
    seen: dict[str, Masquerade] = {}
    for name, one in config.masquerade.items():
        key = ("masquerade", name)
        yield from check_names((*key, "listener"), one.listener, config.listener, "listener")
        for wanted in one.listener:
            if wanted in config.listener and config.listener[wanted].role is not Role.SUBMISSION:
                yield Finding((*key, "listener"), f"{wanted} takes no submissions; what others send is not rewritten")
        yield from _check_covered((*key, "match"), one, seen)
        seen[name] = one
        domain = domain_key(one.address.rpartition("@")[2])
        if signed and not any(domain == above or domain.endswith(f".{above}") for above in signed):
            yield Finding((*key, "address"), f"we do not sign for {domain}; there is no [domain.…] for it", True)


def _check_covered(key: Key, one: Masquerade, seen: dict[str, Masquerade]) -> Iterator[Finding]:
    """A match that an earlier table, or an earlier one of its own, takes first never counts."""
    for index, match in enumerate(one.match):
        if any(_covers(before, match) for before in one.match[:index]):
            yield Finding(key, f"{match} is in what stands before it")
        for name, earlier in seen.items():
            everywhere = not earlier.listener or (one.listener and set(one.listener) <= set(earlier.listener))
            if everywhere and any(_covers(before, match) for before in earlier.match):
                yield Finding(key, f"{match} never counts: [masquerade.{name}] takes it first")


def _covers(wide: str, narrow: str) -> bool:
    if wide == "*":
        return True
    local, _, domain = narrow.rpartition("@")
    wide_local, _, wide_domain = wide.rpartition("@")
    same_domain = narrow != "*" and domain_key(domain) == domain_key(wide_domain)
    return same_domain and (not wide_local or local.casefold() == wide_local.casefold())
