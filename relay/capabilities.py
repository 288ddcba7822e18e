"""What a next hop takes, so that the listeners in front of it promise no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """size: octets of a message, 0 when there is no limit or none is known (RFC 1870)."""

    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    dsn: bool = False


# What our own store takes, and what is assumed of a hop not seen yet: mail for it is 451 until it is seen.
EVERYTHING = Capabilities(eight_bit=True, smtputf8=True)


def common(hops: Iterable[Capabilities]) -> Capabilities:
    """What every one of them takes; EVERYTHING if there are none."""
    known = tuple(hops)
    if len(known) < 2:
        return known[0] if known else EVERYTHING
    return Capabilities(
        min((one.size for one in known if one.size), default=0),
        all(one.eight_bit for one in known),
        all(one.smtputf8 for one in known),
        all(one.dsn for one in known),
    )
