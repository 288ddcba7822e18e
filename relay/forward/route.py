"""Pure: who is meant by a recipient, and which route takes the mail for him.

STANDARDS  RFC 5321 §4.5.1 (Postmaster without a domain), RFC 2142 (roles).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from relay.address import Address, domain_key, parse_mailbox
from relay.config.models import Config, Role, Route
from relay.decide.recipients import postmaster_at, role_mailbox
from relay.envelope import Envelope

INBOX = ""  # the hop of all that a `capture` listener takes

_CAPTURED = Route(hop=INBOX)


class Routed(NamedTuple):
    """mailbox: where it goes for this recipient. is_role: by [role_mailbox], whoever else may be known."""

    mailbox: Address
    route: Route
    is_role: bool


def find(config: Config, envelope: Envelope, recipient: Address) -> Routed | None:
    """Who is meant, and the route; None when no route takes it."""
    listener = config.listener[envelope.client.listener]
    address = recipient
    if not recipient.domain:
        address = postmaster_at(config.postmaster, (listener.domains or (config.hostname,))[0])
    if listener.role is Role.CAPTURE:
        return Routed(address, _CAPTURED, False)
    role = role_mailbox(address, config)
    route = choose(config.route, envelope, role or address)
    if role is not None and config.role_mailbox.hop is not None:
        route = (route or _CAPTURED).via(config.role_mailbox.hop)
    return Routed(role or address, route, role is not None) if route is not None else None


def choose(routes: Mapping[str, Route], envelope: Envelope, recipient: Address) -> Route | None:
    """The first route, from the top, all of whose conditions hold; None if none does.

    Domains compare as lower-case A-labels. The sender domain of `<>` is "", and of the senders only "*" is `<>`.
    """
    client, sender, domain = envelope.client, envelope.reverse_path, recipient.domain_key
    sender_domain = sender.domain_key if sender else ""
    for route in routes.values():
        if (
            (not route.listener or client.listener in route.listener)
            and (not route.login or client.login in route.login)
            and (not route.recipient_domain or domain in _keys(route).recipient_domains)
            and (not route.sender_domain or sender_domain in _keys(route).sender_domains)
            and (not route.sender or not _keys(route).senders.isdisjoint(_senders(sender)))
        ):
            return route
    return None


def reachable(config: Config) -> dict[str, frozenset[str]]:
    """By listener: the names of the hops that its mail may go to; none where it is captured."""
    return {name: frozenset(_reachable(config, name)) for name in config.listener}


def _reachable(config: Config, listener: str) -> Iterator[str]:
    role = config.listener[listener].role
    if role is Role.CAPTURE:
        return
    for route in config.route.values():
        if not route.listener or listener in route.listener:
            yield route.hop
    if config.role_mailbox.hop is not None:
        yield config.role_mailbox.hop
    if role is Role.GATEWAY and config.policy.quarantine_hop is not None:
        yield config.policy.quarantine_hop


class _Keys(NamedTuple):
    """A route's names in the forms that are compared. senders: keys of addresses, `@` and a domain's key, or `*`."""

    senders: frozenset[str]
    sender_domains: frozenset[str]
    recipient_domains: frozenset[str]


@lru_cache(1024)  # routes come from the configuration, and this runs for every RCPT
def _keys(route: Route) -> _Keys:
    return _Keys(
        frozenset(map(_sender_key, route.sender)),
        frozenset(map(domain_key, route.sender_domain)),
        frozenset(map(domain_key, route.recipient_domain)),
    )


def _senders(sender: Address | None) -> set[str]:
    """All names that a route may know a sender by."""
    return {"*", f"@{sender.domain_key}", sender.key} if sender else {"*"}


def _sender_key(sender: str) -> str:
    """As `accept.login.may_send_as` understands it: an address, `@domain` without its subdomains, or `*`."""
    if sender == "*":
        return sender
    return f"@{domain_key(sender[1:])}" if sender.startswith("@") else parse_mailbox(sender.encode(), utf8=True).key
