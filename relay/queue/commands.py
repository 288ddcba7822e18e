"""What an operator can do with the queue, whether the relay runs (`control.py`) or is stopped (`cli/queue.py`).

A request and its answer are JSON objects, times in them seconds since the epoch:

    list     selection, limit, after    -> messages: oldest first, with those recipients that the selection means
    show     id                         -> message, or null
    source   id                         -> size, or null; and the content
    stats    selection                  -> depth
    hold, release, retry, drop          selection, or all: true
                                        -> recipients, messages: moved; others: by state, what was left alone
    flush    hop; "" for all            -> recipients, messages: due now; what was thought to be down is tried

TRUSTS     nothing in a request but its right to be made. A word that this relay does not know is refused, since it may
           be a condition: what drops a few messages must not drop them all.
FAILS      BadRequest, in words for the operator; NotKept when the queue cannot be used, with some of it done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from relay.errors import RelayError
from relay.fact import Fact, Record
from relay.queue.entry import EVERYTHING, Moved, Queued, Recipient, Selection
from relay.queue.states import Move, State, before

if TYPE_CHECKING:
    from relay.queue.store import Store

CAUSE = "operator"  # why what he holds is held
MAX_LIMIT = 1000  # messages in one answer

_MOVES = {"hold": Move.HOLD, "release": Move.RELEASE, "retry": Move.RETRY, "drop": Move.DROP}
_WORDS = {
    "list": {"selection", "limit", "after"},
    "show": {"id"},
    "source": {"id"},
    "stats": {"selection"},
    "flush": {"hop"},
    **{verb: {"selection", "all"} for verb in _MOVES},
}
# What is said of each message. A retry is told by its attempt.
_EVENTS = {
    Move.HOLD: ("queue.held", "warning"),
    Move.RELEASE: ("queue.released", "info"),
    Move.DROP: ("queue.dropped", "warning"),
}
_STATES = frozenset(one.value for one in State) - {State.DONE.value}


class BadRequest(RelayError):
    """Not a request; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """values: as above. content: of the message whose `source` was asked for."""

    values: Mapping[str, Any]
    content: bytes | bytearray | None = None


class Commands:
    """extend: seconds that a released message is tried for at least. wake, flush: the worker's; flush names a hop."""

    def __init__(
        self,
        store: Store,
        *,
        extend: Callable[[], float],
        wake: Callable[[], None],
        flush: Callable[[str], None],
        record: Record,
    ) -> None:
        self._store, self._record = store, record
        self._extend, self._wake, self._flush = extend, wake, flush

    async def answer(self, request: Mapping[str, object]) -> Answer:
        """Do what is asked."""
        verb = request.get("verb")
        if not isinstance(verb, str) or verb not in _WORDS:
            raise BadRequest("no such verb")
        if unknown := request.keys() - _WORDS[verb] - {"verb"}:
            raise BadRequest(f"{verb} does not know {json.dumps(sorted(unknown))}")
        match verb:
            case "list":
                limit = _limit(request)
                found = await self._store.select(_selection(request), limit, _text(request, "after"))
                return Answer({"messages": [describe(one) for one in found]})
            case "show":
                queued = await self._store.find(_text(request, "id"))
                return Answer({"message": None if queued is None else describe(queued)})
            case "source":
                content = await self._store.content(_text(request, "id"))
                return Answer({"size": None if content is None else len(content)}, content)
            case "stats":
                return Answer({"depth": [asdict(one) for one in await self._store.depth(_selection(request))]})
            case "flush":
                return await self._move(Move.RETRY, Selection(hop=_text(request, "hop"), state=State.WAITING))
        selection = _selection(request)
        if (selection == EVERYTHING) != (request.get("all") is True):
            raise BadRequest("select messages, or all")
        return await self._move(_MOVES[verb], selection)

    async def _move(self, move: Move, selection: Selection) -> Answer:
        others: Counter[str] = Counter()
        for one in await self._store.depth(selection):
            if one.state not in before(move):
                others[one.state] += one.recipients
        messages = 0
        hops = {selection.hop} - {""}

        def tell(moved: Sequence[Moved]) -> None:
            nonlocal messages
            hops.update(one.hop for one in moved)
            for id, alike in groupby(moved, lambda one: one.id):
                messages += 1
                if event := _EVENTS.get(move):
                    values = {"to": [one.address for one in alike], "cause": CAUSE}
                    self._record(Fact(event[0], id, values, event[1]))

        cause = CAUSE if move is Move.HOLD else ""
        recipients = await self._store.move(selection, move, cause, extend=self._extend(), tell=tell)
        if move is Move.RETRY:
            for hop in sorted(hops):
                self._flush(hop)
        if move in (Move.RETRY, Move.RELEASE):
            self._wake()
        return Answer({"recipients": recipients, "messages": messages, "others": others})


def describe(queued: Queued) -> dict[str, Any]:
    """A message as an answer tells it."""
    envelope, client = queued.envelope, queued.envelope.client
    return {
        "id": envelope.id,
        "arrived": queued.arrived,
        "size": queued.size,
        "reverse_path": None if envelope.reverse_path is None else str(envelope.reverse_path),
        "listener": client.listener,
        "ip": str(client.ip),
        "helo": client.helo,
        "login": client.login,
        "envid": envelope.envid,
        "reportable": queued.is_reportable,
        "recipients": [_describe_recipient(one) for one in queued.recipients],
    }


def _describe_recipient(recipient: Recipient) -> dict[str, Any]:
    return {
        "address": str(recipient.address),
        "hop": recipient.hop,
        "state": recipient.state,
        "attempts": recipient.attempts,
        "crashes": recipient.crashes,
        "last_attempt": recipient.tried or None,
        "next_attempt": recipient.due if recipient.state is State.WAITING else None,
        "expires": recipient.expires or None,
        "warn": recipient.warn,
        "notify": recipient.notify.on,
        "reply": recipient.reply,
        "host": recipient.host,
        "cause": recipient.cause,
        "report": recipient.action,
    }


def _selection(request: Mapping[str, object]) -> Selection:
    """Raises BadRequest."""
    match request.get("selection", {}):
        case dict() as given:
            pass
        case _:
            raise BadRequest("a selection is an object")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("sender", "recipient", "hop") and isinstance(value, str):
            values[name] = value
        elif name == "ids" and isinstance(value, list) and all(isinstance(one, str) for one in value):
            values[name] = tuple(value)
        elif name == "state" and isinstance(value, str) and value in _STATES:
            values[name] = State(value)
        elif name == "older" and isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = float(value)
        else:
            raise BadRequest(f"a selection cannot have {json.dumps(name)}: {json.dumps(value)}")
    return Selection(**values)


def _text(request: Mapping[str, object], name: str) -> str:
    """Raises BadRequest."""
    value = request.get(name, "")
    if not isinstance(value, str):
        raise BadRequest(f"{name} is no text")
    return value


def _limit(request: Mapping[str, object]) -> int:
    """Raises BadRequest."""
    value = request.get("limit", MAX_LIMIT)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
        raise BadRequest(f"limit is a number from 1 to {MAX_LIMIT}")
    return value
