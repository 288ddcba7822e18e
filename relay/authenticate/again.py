"""A check done again: while DNS answers what it did, the result is what it was, and is not worked out anew.

Who sends a message sends others, from the same address and under the same name.

TRUSTS     that a check depends on what it is given and on DNS, and that nobody changes what it returns. (`%{t}` in
           an SPF explanation is then the time of the first message.)
FAILS      as the check does. Neither a check that had to wait for DNS is kept nor one with long answers, so that
           strangers cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from relay.resolver import Asked, Budget

MAX_KEPT = 512  # results; with traces as long as they can be made, 40 MB in all
MAX_OCTETS = 8192  # of the DNS answers behind one, as the cache weighs them; most have half of that

T = TypeVar("T")

_kept: dict[Hashable, tuple[tuple[Asked, ...], Any]] = {}  # by check and what it was given; the oldest go first


async def again(budget: Budget, check: Callable[..., Awaitable[T]], *given: Hashable) -> T:
    """What `check(*given, budget)` finds."""
    key = (check, *given)
    if (known := _kept.get(key)) and budget.repeat(known[0]):
        return known[1]  # type: ignore[no-any-return]
    queries, begun = budget.queries, len(budget.asked)
    result = await check(*given, budget)
    asked = tuple(budget.asked[begun:])
    if budget.queries == queries and sum(one.answer.octets for one in asked) <= MAX_OCTETS:
        _kept.pop(key, None)
        _kept[key] = asked, result
        if len(_kept) > MAX_KEPT:
            del _kept[next(iter(_kept))]
    return result
