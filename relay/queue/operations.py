"""All that the relay does to the queue by itself, as SQL: each function is one operation of a transaction.

They run on SQLite, one writer at a time, and on PostgreSQL beside those of other relays (READ COMMITTED). So
each of them locks the rows it is about to judge (SQLite knows no FOR UPDATE and needs none): a claim passes
over what another has locked; whoever settles waits for it, since the last of a message's recipients deletes it.
Rows are locked in the order of their key, so that nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, Integer, RowMapping, Select, Text, bindparam, delete, insert, select, update

from relay.address import Address
from relay.queue import rows
from relay.queue.entry import Delivery, Entry, Queued, Recipient, Settlement
from relay.queue.schema import CLEAN, content, is_state, mark, message, recipient
from relay.queue.states import Move, State, after

POISON = "poison"

_OF_IDS = recipient.c.message.in_(bindparam("ids", expanding=True))
_KEY = (recipient.c.message == bindparam("of_message")) & (recipient.c.number == bindparam("of_number"))
_IN_ORDER = (recipient.c.message, recipient.c.number)


class Key(NamedTuple):
    """Of a recipient."""

    message: str
    number: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims. token: of this claim alone. lease: seconds."""

    owner: str
    token: str
    lease: float


@dataclass(frozen=True, slots=True)
class Keep:
    """A message to be kept. claim: recipients of these hops are born ACTIVE."""

    entry: Entry
    claim: Collection[str]


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A recipient that was ACTIVE when whoever had it fell silent. state: what it is now."""

    id: str
    address: Address
    hop: str
    crashes: int
    state: State


# --- a message comes in --------------------------------------------------------------------------

_INSERT_MESSAGE, _INSERT_RECIPIENT, _INSERT_CONTENT = insert(message), insert(recipient), insert(content)


def keep(connection: Connection, now: float, keeps: Sequence[Keep], claim: Claim) -> list[tuple[Delivery, ...]]:
    """Insert messages; for each, the deliveries it was born with."""
    messages, recipients, born = [], [], []
    contents: list[dict[str, Any]] = []
    for one in keeps:
        entry, id = one.entry, one.entry.envelope.id
        numbered = [_birth(recipient, number, one.claim) for number, recipient in enumerate(entry.recipients, 1)]
        messages.append(rows.message_row(entry))
        contents += rows.content_rows(id, entry.message)
        for each in numbered:
            row = rows.recipient_row(id, each)
            if each.state is State.ACTIVE:
                row |= {"owner": claim.owner, "token": claim.token, "lease": now + claim.lease}
            recipients.append(row)
        born.append(_born(entry, [each for each in numbered if each.state is State.ACTIVE], claim.token, now))
    connection.execute(_INSERT_MESSAGE, messages)
    connection.execute(_INSERT_RECIPIENT, recipients)
    connection.execute(_INSERT_CONTENT, contents)
    return born


def _birth(one: Recipient, number: int, claim: Collection[str]) -> Recipient:
    if one.state is State.WAITING and one.hop in claim:
        return replace(one, number=number, state=State.ACTIVE, crashes=one.crashes + 1)
    return replace(one, number=number)


def _born(entry: Entry, active: Iterable[Recipient], token: str, now: float) -> tuple[Delivery, ...]:
    by_hop: dict[str, list[Recipient]] = {}
    for one in active:
        by_hop.setdefault(one.hop, []).append(one)
    return tuple(
        Delivery(_narrowed(entry, recipients), hop, token, now, entry.message) for hop, recipients in by_hop.items()
    )


def _narrowed(entry: Entry, recipients: Sequence[Recipient]) -> Queued:
    """The message as `Queued`, with some of its recipients."""
    addresses = [one.address for one in recipients]
    notify = {address: found for address, found in entry.envelope.notify.items() if address in addresses}
    envelope = replace(entry.envelope, recipients=addresses, notify=notify)
    return Queued(envelope, entry.message.size, entry.arrived, entry.is_reportable, tuple(recipients))


# --- an attempt is claimed -----------------------------------------------------------------------

_NOW, _HOP = bindparam("now", type_=Double), bindparam("hop", type_=Text)
_IS_DUE = is_state(State.WAITING) & (recipient.c.hop == _HOP) & (recipient.c.due <= _NOW)
_IS_EXPIRED = is_state(State.WAITING) & (recipient.c.expires <= _NOW)
_LIMIT = bindparam("limit", type_=Integer)
_FIRST_DUE = select(recipient.c.message).where(_IS_DUE).order_by(recipient.c.due).limit(_LIMIT)
_FIRST_EXPIRED = select(recipient.c.message).where(_IS_EXPIRED).order_by(recipient.c.expires).limit(_LIMIT)
_DUE = select(recipient).where(_OF_IDS, _IS_DUE).order_by(*_IN_ORDER)
_EXPIRED = select(recipient).where(_OF_IDS, _IS_EXPIRED).order_by(*_IN_ORDER)
_FIRST_DUE, _FIRST_EXPIRED, _DUE, _EXPIRED = (
    one.with_for_update(skip_locked=True) for one in (_FIRST_DUE, _FIRST_EXPIRED, _DUE, _EXPIRED)
)
_MESSAGES = select(message).where(message.c.id.in_(bindparam("ids", expanding=True)))
_CLAIM = (
    update(recipient)
    .where(_KEY)
    .values(
        state=State.ACTIVE.value,
        crashes=recipient.c.crashes + 1,
        owner=bindparam("by_owner"),
        token=bindparam("by_token"),
        lease=bindparam("until"),
    )
)


def claim_due(connection: Connection, now: float, hop: str, limit: int, claim: Claim) -> tuple[Delivery, ...]:
    """At most `limit` messages with recipients that are due at `hop`, the oldest due first, with all of those."""
    return _claim(connection, _FIRST_DUE, _DUE, {"hop": hop, "now": now}, limit, claim)


def claim_expired(connection: Connection, now: float, limit: int, claim: Claim) -> tuple[Delivery, ...]:
    """At most `limit` messages with recipients whose time is over, of any hop and due or not."""
    return _claim(connection, _FIRST_EXPIRED, _EXPIRED, {"now": now}, limit, claim)


def _claim(
    connection: Connection,
    first: Select[Any],
    all_of: Select[Any],
    values: dict[str, Any],
    limit: int,
    claim: Claim,
) -> tuple[Delivery, ...]:
    ids: list[str] = list(dict.fromkeys(connection.scalars(first, {**values, "limit": limit})))
    if not ids:
        return ()
    now = values["now"]
    found = connection.execute(all_of, {**values, "ids": padded(ids)}).mappings().all()
    by = {"by_owner": claim.owner, "by_token": claim.token, "until": now + claim.lease}
    connection.execute(_CLAIM, [{"of_message": row["message"], "of_number": row["number"], **by} for row in found])
    messages = {row["id"]: row for row in connection.execute(_MESSAGES, {"ids": padded(ids)}).mappings()}
    order = {id: index for index, id in enumerate(ids)}
    deliveries = []
    by_delivery = sorted(found, key=lambda row: (order[row["message"]], row["hop"], row["number"]))
    for (id, hop), group in groupby(by_delivery, key=lambda row: (row["message"], row["hop"])):
        active = [_claimed(rows.recipient(row)) for row in group]
        deliveries.append(Delivery(rows.queued(messages[id], active), hop, claim.token, now))
    return tuple(deliveries)


def _claimed(one: Recipient) -> Recipient:
    return replace(one, state=State.ACTIVE, crashes=one.crashes + 1)


# --- its end -------------------------------------------------------------------------------------

_FREE = {"owner": None, "token": None, "lease": None}
_STATES = select(recipient.c.message, recipient.c.number, recipient.c.state, recipient.c.token)
_STATES = _STATES.where(_OF_IDS).order_by(*_IN_ORDER).with_for_update()
_SETTLE = (
    update(recipient)
    .where(_KEY)
    .values(
        state=bindparam("now_state"),
        attempts=bindparam("now_attempts"),
        crashes=0,
        due=bindparam("now_due"),
        tried=bindparam("now_tried"),
        reply=bindparam("now_reply"),
        host=bindparam("now_host"),
        cause=bindparam("now_cause"),
        action=bindparam("now_action"),
        **_FREE,
    )
)
_RETURN = update(recipient).where(_KEY)
_RETURN = _RETURN.values(state=State.WAITING.value, crashes=recipient.c.crashes - 1, **_FREE)


def settle(
    connection: Connection, now: float, settled: Sequence[tuple[str, str, Sequence[Settlement]]]
) -> list[frozenset[int]]:
    """Write what attempts came to: (message id, token, settlements). For each: the numbers whose token was lost."""
    states, tokens = _lock(connection, [id for id, _, _ in settled])
    changes, returns, lost = [], [], []
    for id, token, settlements in settled:
        missing = set()
        for one in settlements:
            key = Key(id, one.number)
            if tokens.get(key) != token or states[key] is not State.ACTIVE:
                missing.add(one.number)
                continue
            states[key] = after(State.ACTIVE, one.move)
            if one.move is Move.RETURN:
                returns.append(_of(key))
            else:
                changes.append(_of(key) | _change(one, states[key], now))
        lost.append(frozenset(missing))
    gone = done(states)
    _execute(connection, _SETTLE, [change for change in changes if change["of_message"] not in gone])
    _execute(connection, _RETURN, returns)
    forget(connection, gone)
    return lost


def _lock(connection: Connection, ids: Iterable[str]) -> tuple[dict[Key, State], dict[Key, str | None]]:
    """All recipients of these messages, DONE ones too, locked: their states, and the tokens of claims."""
    states, tokens = {}, {}
    for id, number, state, token in connection.execute(_STATES, {"ids": padded(ids)}):
        states[Key(id, number)], tokens[Key(id, number)] = State(state), token
    return states, tokens


def _change(one: Settlement, state: State, now: float) -> dict[str, Any]:
    return {
        "now_state": state.value,
        "now_attempts": one.attempts,
        "now_due": now + one.delay,
        "now_tried": now,
        "now_reply": one.reply,
        "now_host": one.host,
        "now_cause": one.cause,
        "now_action": one.action and one.action.value,
    }


def _of(key: Key) -> dict[str, Any]:
    return {"of_message": key.message, "of_number": key.number}


def _execute(connection: Connection, statement: Any, values: Sequence[dict[str, Any]]) -> None:
    if values:
        connection.execute(statement, values)


def done(states: dict[Key, State]) -> set[str]:
    """The messages of which every recipient is DONE."""
    return {key.message for key in states} - {key.message for key, state in states.items() if state is not State.DONE}


_FORGET = tuple(
    delete(table).where(column == bindparam("gone"))
    for table, column in (
        (content, content.c.message),
        (recipient, recipient.c.message),
        (message, message.c.id),
    )
)


def forget(connection: Connection, ids: Collection[str]) -> None:
    """Delete messages, their recipients and their content."""
    for statement in _FORGET:
        _execute(connection, statement, [{"gone": id} for id in sorted(ids)])


# --- leases --------------------------------------------------------------------------------------

_RENEW = update(recipient).where(is_state(State.ACTIVE), recipient.c.owner == bindparam("by_owner"))
_RENEW = _RENEW.values(lease=bindparam("until"))
_ACTIVE = select(recipient).where(is_state(State.ACTIVE)).order_by(*_IN_ORDER).with_for_update(skip_locked=True)
_OVERDUE = _ACTIVE.where(recipient.c.lease <= _NOW)
_OF_OWNER = _ACTIVE.where(recipient.c.owner == bindparam("owner"))
_LAPSE = update(recipient).where(_KEY)
_LAPSE = _LAPSE.values(state=bindparam("now_state"), due=bindparam("now_due"), cause=bindparam("now_cause"), **_FREE)


def renew(connection: Connection, now: float, owner: str, lease: float) -> None:
    connection.execute(_RENEW, {"by_owner": owner, "until": now + lease})


def lapse_overdue(connection: Connection, now: float, crashes: int, first_retry: float) -> list[Lapsed]:
    """Those whose lease ran out. crashes: a recipient with as many is HELD. first_retry: seconds."""
    return _lapse(connection, _OVERDUE, {"now": now}, now, crashes, first_retry)


def lapse_of(connection: Connection, now: float, owner: str, crashes: int, first_retry: float) -> list[Lapsed]:
    """Those of an owner who is known to be dead."""
    return _lapse(connection, _OF_OWNER, {"owner": owner}, now, crashes, first_retry)


def lapse_all(connection: Connection, now: float, crashes: int, first_retry: float) -> list[Lapsed]:
    """Whatever is ACTIVE: nobody else lives."""
    return _lapse(connection, _ACTIVE, {}, now, crashes, first_retry)


def _lapse(
    connection: Connection, which: Select[Any], values: dict[str, Any], now: float, crashes: int, first_retry: float
) -> list[Lapsed]:
    lapsed, changes = [], []
    for row in connection.execute(which, values).mappings():
        one = rows.recipient(row)
        move = Move.POISON if one.crashes >= crashes else Move.LAPSE
        state = after(State.ACTIVE, move)
        # Once may be anything; twice, and the message may be what ends its relays.
        wait = first_retry * 2.0 ** (one.crashes - 2) if one.crashes >= 2 else 0.0
        key = Key(row["message"], one.number)
        cause = POISON if move is Move.POISON else "crash"
        changes.append(_of(key) | {"now_state": state.value, "now_due": now + wait, "now_cause": cause})
        lapsed.append(Lapsed(key.message, one.address, one.hop, one.crashes, state))
    _execute(connection, _LAPSE, changes)
    return lapsed


# --- reports -------------------------------------------------------------------------------------

_BUSY = recipient.alias("busy")
_REPORT = select(recipient.c.message).where(
    is_state(State.REPORT),
    ~select(_BUSY.c.number).where(_BUSY.c.message == recipient.c.message, _BUSY.c.state == State.ACTIVE.value).exists(),
)
_REPORT = _REPORT.distinct().order_by(recipient.c.message).limit(_LIMIT)
_IS_WARNED = is_state(State.WAITING) & recipient.c.warn.is_not(None) & (recipient.c.warn <= _NOW)
_WARN = select(recipient.c.message).where(_IS_WARNED).order_by(recipient.c.warn).limit(_LIMIT)
_TO_REPORT = select(recipient).where(_OF_IDS, is_state(State.REPORT) | _IS_WARNED).order_by(*_IN_ORDER)
_REPORTED = update(recipient).where(_KEY).values(state=State.DONE.value)
_IS_TOLD = update(recipient).where(_KEY).values(warn=None)
_OPEN = select(recipient.c.number, recipient.c.state, recipient.c.warn)
_OPEN = _OPEN.where(recipient.c.message == bindparam("id")).order_by(recipient.c.number).with_for_update()


def reportable(connection: Connection, now: float, limit: int) -> tuple[Queued, ...]:
    """Messages whose senders are to hear something, with the recipients it is about.

    A message waits while one of its recipients is being attempted: its fate may go into the same report.
    """
    found = {*connection.scalars(_REPORT, {"limit": limit}), *connection.scalars(_WARN, {"limit": limit, "now": now})}
    ids = sorted(found)[:limit]
    if not ids:
        return ()
    return load(connection, connection.execute(_TO_REPORT, {"ids": padded(ids), "now": now}).mappings().all())


def report(connection: Connection, now: float, queued: Queued, bounce: Entry | None) -> bool:
    """The report goes in and what it says is done; False, and nothing is written, if anything of it has changed."""
    id = queued.envelope.id
    now_open = {number: (State(state), warn) for number, state, warn in connection.execute(_OPEN, {"id": id})}
    for one in queued.recipients:
        state, warn = now_open.get(one.number, (State.DONE, None))
        if state is not one.state or (state is State.WAITING and warn is None):
            return False
    states = {Key(id, number): state for number, (state, _) in now_open.items()}
    told = [Key(id, one.number) for one in queued.recipients]
    reported = [key for key in told if states[key] is State.REPORT]
    states |= dict.fromkeys(reported, after(State.REPORT, Move.REPORTED))
    _execute(connection, _REPORTED, [_of(key) for key in reported])
    _execute(connection, _IS_TOLD, [_of(key) for key in told if states[key] is State.WAITING])
    forget(connection, done(states))
    if bounce is not None:
        keep(connection, now, [Keep(bounce, ())], Claim("", "", 0.0))
    return True


def load(connection: Connection, found: Sequence[RowMapping]) -> tuple[Queued, ...]:
    """The messages of rows of recipients that are in the order of their key."""
    if not found:
        return ()
    ids = dict.fromkeys(row["message"] for row in found)
    messages = {row["id"]: row for row in connection.execute(_MESSAGES, {"ids": padded(ids)}).mappings()}
    return tuple(
        rows.queued(messages[id], map(rows.recipient, group))
        for id, group in groupby(found, key=lambda row: row["message"])
    )


# --- the queue as a whole ------------------------------------------------------------------------

_MARK = select(mark.c.value).where(mark.c.name == CLEAN)
_INSERT_MARK = insert(mark)
_UPDATE_MARK = update(mark).where(mark.c.name == CLEAN).values(value=bindparam("now_value"))
_CONTENT = select(content.c.octets)
_CONTENT = _CONTENT.where(content.c.message == bindparam("id"), content.c.number == bindparam("number"))
_SIZE = select(message.c.size).where(message.c.id == bindparam("id"))
_NEXT = select(recipient.c.due).where(is_state(State.WAITING), recipient.c.hop == _HOP)
_NEXT = _NEXT.order_by(recipient.c.due).limit(1)


def was_clean(connection: Connection, now: float) -> bool:
    """Whether the last supervisor stopped in order, or there was none."""
    return connection.scalar(_MARK) in ("1", None)


def set_clean(connection: Connection, now: float, clean: bool) -> None:
    value = str(int(clean))
    if connection.execute(_UPDATE_MARK, {"now_value": value}).rowcount == 0:
        connection.execute(_INSERT_MARK, {"name": CLEAN, "value": value})


def read_content(connection: Connection, now: float, id: str) -> bytearray | None:
    """The whole message; None if it, or a part of it, is not there."""
    size = connection.scalar(_SIZE, {"id": id})
    if size is None:
        return None
    whole, at, number = bytearray(size), 0, 1
    while (piece := connection.scalar(_CONTENT, {"id": id, "number": number})) is not None and at + len(piece) <= size:
        whole[at : at + len(piece)] = piece
        at, number = at + len(piece), number + 1
    return whole if piece is None and at == size else None


def next_due(connection: Connection, now: float, hops: Collection[str]) -> float | None:
    found = (connection.scalar(_NEXT, {"hop": hop}) for hop in hops)
    return min((due for due in found if due is not None), default=None)


def padded(ids: Iterable[str]) -> list[str]:
    """The ids, the last of them repeated up to a power of two: so that few statements have to be prepared."""
    listed = list(ids)
    return listed + listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))


def bind(operation: Callable[..., Any], *values: Any) -> Callable[[Connection, float], Any]:
    """`operation` with its arguments, fit for an engine."""
    return lambda connection, now: operation(connection, now, *values)
