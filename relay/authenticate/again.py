"""A check done again: while DNS answers what it did, the result is what it was, and is not worked out anew.

Who sends a message sends others, from the same address and under the same name.

TRUSTS     that a check depends on what it is given and on DNS, and that nobody changes what it returns. (`%{t}` in
           an SPF explanation is then the time of the first message.)
FAILS      as the check does. Neither a check is kept whose budget has waited for DNS nor one with long answers, so
           that strangers cannot fill the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from relay.authenticate.eager import begin
from relay.resolver import Asked, Budget

MAX_KEPT = 512  # results; with traces as long as they can be made, 40 MB in all
MAX_OCTETS = 8192  # of the DNS answers behind one, as the cache weighs them; most have half of that

T = TypeVar("T")

# By check and what it was given, the oldest go first; a future that is done may be handed out many times.
_kept: dict[Hashable, tuple[tuple[Asked, ...], asyncio.Future[Any]]] = {}


def again(budget: Budget, check: Callable[..., Coroutine[Any, Any, T]], *given: Hashable) -> asyncio.Future[T]:
    """What `check(*given, budget)` finds, begun at once."""
    key = (check, *given)
    if (known := _kept.get(key)) and budget.repeat(known[0]):
        return known[1]
    begun = len(budget.asked)
    found = begin(check(*given, budget))
    if found.done() and not budget.queries and found.exception() is None:
        asked = tuple(budget.asked[begun:])
        if sum([one.answer.octets for one in budget.asked]) <= MAX_OCTETS:
            _kept.pop(key, None)
            _kept[key] = asked, found
            if len(_kept) > MAX_KEPT:
                del _kept[next(iter(_kept))]
    return found
