"""Pure: which next hop takes a recipient."""

from __future__ import annotations

from collections.abc import Mapping

from relay.address import Address, domain_key
from relay.config.models import Route
from relay.envelope import Envelope


def choose(routes: Mapping[str, Route], envelope: Envelope, recipient: Address) -> str | None:
    """The name of the hop of the first route, from the top, all of whose conditions hold; None if none does.

    Domains compare as lower-case A-labels. The sender domain of `<>` is "".
    """
    sender = envelope.reverse_path.domain_key if envelope.reverse_path else ""
    for route in routes.values():
        if (
            (not route.listener or envelope.client.listener in route.listener)
            and (not route.sender_domain or sender in map(domain_key, route.sender_domain))
            and (not route.recipient_domain or recipient.domain_key in map(domain_key, route.recipient_domain))
        ):
            return route.hop
    return None


def reachable(routes: Mapping[str, Route], listener: str) -> set[str]:
    """The names of the hops that mail from `listener` may go to."""
    return {route.hop for route in routes.values() if not route.listener or listener in route.listener}
