"""A message's way through the queue, as SQL: it is kept, claimed, settled, and taken back from the dead.

Each function is an operation (`engine.py`): a part of one transaction. They run on SQLite, one writer at a time,
and on PostgreSQL beside those of other relays (READ COMMITTED), so each locks the rows it is about to judge. A
claim passes over what another has locked; whoever settles waits for it, since the last recipient that is DONE
deletes the message. `reports.py`, `selection.py` and `reading.py` hold the other operations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update

from relay.address import Address
from relay.queue import rows
from relay.queue.entry import Delivery, Entry, Queued, Recipient, Settlement
from relay.queue.reading import MESSAGES
from relay.queue.schema import content, is_state, message, recipient
from relay.queue.statements import (
    HOP,
    IN_ORDER,
    LIMIT,
    NOW,
    OF_IDS,
    OF_KEY,
    Key,
    done,
    execute_many,
    forget,
    insert_all,
    lock,
    padded,
)
from relay.queue.states import Move, State, after

POISON = "poison"


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
    insert_all(connection, message, messages)
    insert_all(connection, recipient, recipients)
    insert_all(connection, content, contents)
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
    """The message as `Queued`, with some of its recipients, or all of them."""
    addresses, envelope = [one.address for one in recipients], entry.envelope
    if addresses != envelope.recipients:
        notify = {address: found for address, found in envelope.notify.items() if address in addresses}
        envelope = replace(envelope, recipients=addresses, notify=notify)
    return Queued(envelope, entry.message.size, entry.arrived, entry.is_reportable, tuple(recipients))


# --- an attempt is claimed -----------------------------------------------------------------------

ANY_CRASHES = 2**31 - 1  # more than there will be

_IS_WAITING, _IS_EXPIRED = is_state(State.WAITING), recipient.c.expires <= NOW
_IS_DUE = (recipient.c.due <= NOW) & (recipient.c.crashes < bindparam("below"))
_FIRST = select(recipient.c.message).where(_IS_WAITING).limit(LIMIT)
_FIRST_DUE = _FIRST.where(recipient.c.hop == HOP, _IS_DUE).order_by(recipient.c.due)
_FIRST_EXPIRED = _FIRST.where(_IS_EXPIRED).order_by(recipient.c.expires)
# By their key: an expression in place of a column keeps a planner from the list of all that is due.
_ALL_OF = select(recipient).where(OF_IDS, _IS_WAITING).order_by(*IN_ORDER)
_DUE = _ALL_OF.where(recipient.c.hop.concat("") == HOP, _IS_DUE)
_EXPIRED = _ALL_OF.where(recipient.c.expires + 0.0 <= NOW)
_FIRST_DUE, _FIRST_EXPIRED, _DUE, _EXPIRED = (
    one.with_for_update(skip_locked=True) for one in (_FIRST_DUE, _FIRST_EXPIRED, _DUE, _EXPIRED)
)
_CLAIM = (
    update(recipient)
    .where(OF_KEY)
    .values(
        state=State.ACTIVE.value,
        crashes=recipient.c.crashes + 1,
        owner=bindparam("by_owner"),
        token=bindparam("by_token"),
        lease=bindparam("until"),
    )
)


def claim_due(
    connection: Connection, now: float, hop: str, limit: int, below: int, claim: Claim
) -> tuple[Delivery, ...]:
    """At most `limit` messages with recipients that are due at `hop`, the oldest due first, with all of those.

    below: only recipients with fewer crashes.
    """
    return _claim(connection, _FIRST_DUE, _DUE, {"hop": hop, "now": now, "below": below}, limit, claim)


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
    execute_many(connection, _CLAIM, [Key(row["message"], row["number"]).values | by for row in found])
    messages = {row["id"]: row for row in connection.execute(MESSAGES, {"ids": padded(ids)}).mappings()}
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
_SETTLE = (
    update(recipient)
    .where(OF_KEY)
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
_RETURN = update(recipient).where(OF_KEY)
_RETURN = _RETURN.values(state=State.WAITING.value, crashes=recipient.c.crashes - 1, **_FREE)


def settle(
    connection: Connection, now: float, settled: Sequence[tuple[str, str, Sequence[Settlement]]]
) -> list[frozenset[int]]:
    """Write what attempts came to: (message id, token, settlements). For each: the numbers whose token was lost."""
    states, tokens = lock(connection, [id for id, _, _ in settled])
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
                returns.append(key.values)
            else:
                changes.append(key.values | _change(one, states[key], now))
        lost.append(frozenset(missing))
    gone = done(states)
    execute_many(connection, _SETTLE, [change for change in changes if change["of_message"] not in gone])
    execute_many(connection, _RETURN, returns)
    forget(connection, gone)
    return lost


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


# --- leases --------------------------------------------------------------------------------------

_RENEW = update(recipient).where(OF_KEY, is_state(State.ACTIVE), recipient.c.token == bindparam("by_token"))
_RENEW = _RENEW.values(lease=bindparam("until"))
_DISOWN = update(recipient).where(is_state(State.ACTIVE), recipient.c.token == bindparam("by_token"))
_DISOWN = _DISOWN.values(state=State.WAITING.value, crashes=recipient.c.crashes - 1, **_FREE)
_ACTIVE = select(recipient).where(is_state(State.ACTIVE)).order_by(recipient.c.lease).with_for_update(skip_locked=True)
_OVERDUE = _ACTIVE.where(recipient.c.lease <= NOW)
_OF_OWNER = _ACTIVE.where(recipient.c.owner == bindparam("owner"))
_LAPSE = update(recipient).where(OF_KEY)
_LAPSE = _LAPSE.values(state=bindparam("now_state"), due=bindparam("now_due"), cause=bindparam("now_cause"), **_FREE)


def renew(
    connection: Connection, now: float, held: Iterable[tuple[Key, str]], lease: float, unknown: Iterable[str]
) -> None:
    """held: recipients and the tokens they were claimed with. lease: seconds from now.

    unknown: tokens of claims that nobody holds, since the answer to their commit was lost. What they took goes back.
    """
    until = now + lease
    execute_many(connection, _DISOWN, [{"by_token": token} for token in sorted(unknown)])
    execute_many(connection, _RENEW, [key.values | {"by_token": token, "until": until} for key, token in sorted(held)])


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
        changes.append(key.values | {"now_state": state.value, "now_due": now + wait, "now_cause": cause})
        lapsed.append(Lapsed(key.message, one.address, one.hop, one.crashes, state))
    execute_many(connection, _LAPSE, changes)
    return lapsed


def bind(operation: Callable[..., Any], *values: Any) -> Callable[[Connection, float], Any]:
    """`operation` with its arguments, fit for an engine."""
    return lambda connection, now: operation(connection, now, *values)
