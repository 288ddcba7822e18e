"""When mail is tried again and when it has failed: R11, in the open and by random histories."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.address import Address
from relay.config.queue import Bounce, Queue, Unverified
from relay.envelope import Client, Envelope, Notify
from relay.outcome import Outcome
from relay.queue.entry import Action, Queued, Recipient, Settlement
from relay.queue.schedule import Schedule, expire, settle
from relay.queue.states import Move
from tests.support.scripted_hop import Answer, busy, cut, refused, taken, unreachable

DAY = 86400.0
ARRIVED = 1_790_000_000.0
BOB = Address("bob", "example.net")
ANN = Address("ann", "example.org")
DEFAULT = Schedule.of(Queue(), Bounce())


def make_queued(recipient: Recipient, *, sender: Address | None = ANN, is_reportable: bool = True) -> Queued:
    client = Client("submission", "submission", ip_address("192.0.2.1"), 40000)
    envelope = Envelope("m1", client, sender, recipients=[recipient.address])
    return Queued(envelope, 100, ARRIVED, is_reportable, (recipient,))


def make_recipient(notify: str = "", attempts: int = 0) -> Recipient:
    expires = DEFAULT.expires(ARRIVED, is_bounce=False)
    return Recipient(BOB, "next", number=1, attempts=attempts, expires=expires, notify=Notify(notify))


def said(answer: Answer) -> Outcome:
    return answer(make_queued(make_recipient()).envelope, BOB)


def settled(
    answer: Answer,
    recipient: Recipient,
    *,
    now: float = ARRIVED,
    sender: Address | None = ANN,
    is_reportable: bool = True,
    offers_dsn: bool = False,
    schedule: Schedule = DEFAULT,
) -> Settlement:
    queued = make_queued(recipient, sender=sender, is_reportable=is_reportable)
    return settle(queued, recipient, said(answer), now, 0.5, schedule, offers_dsn=offers_dsn)


# --- delays --------------------------------------------------------------------------------------


def test_by_default_the_retries_come_after_5_10_20_40_minutes_and_then_every_hour() -> None:
    minutes = [DEFAULT.delay(attempts, 0.5) / 60 for attempts in range(1, 8)]
    assert minutes == [5, 10, 20, 40, 60, 60, 60]


def test_each_delay_varies_by_a_fifth_both_ways() -> None:
    assert DEFAULT.delay(1, 0.0) == pytest.approx(240)
    assert DEFAULT.delay(1, 0.999999999) == pytest.approx(360)


def test_no_number_of_attempts_is_too_many() -> None:
    assert DEFAULT.delay(1_000_000, 0.5) == 3600


@given(
    first=st.floats(0.001, 1e6),
    most=st.floats(0.001, 1e6),
    jitter=st.integers(0, 50),
    attempts=st.integers(1, 200),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_never_zero_and_never_above_its_cap_and_jitter(
    first: float, most: float, jitter: int, attempts: int, chance: float
) -> None:
    schedule = replace(DEFAULT, first_retry=first, max_retry=most, jitter=jitter / 100)
    plain = first
    for _ in range(attempts - 1):
        plain = min(2 * plain, most)
    plain = min(plain, most)
    delay = schedule.delay(attempts, chance)
    assert delay > 0
    assert plain * (1 - jitter / 100) <= delay * (1 + 1e-12)
    assert delay <= plain * (1 + jitter / 100) * (1 + 1e-12)


# --- when it ends --------------------------------------------------------------------------------


def test_mail_is_given_up_after_five_days_and_a_bounce_after_one() -> None:
    assert DEFAULT.expires(ARRIVED, is_bounce=False) - ARRIVED == 5 * DAY
    assert DEFAULT.expires(ARRIVED, is_bounce=True) - ARRIVED == DAY


@pytest.mark.parametrize("answer", [busy, unreachable, cut])
def test_a_failure_before_the_end_is_put_off_no_further_than_the_end(answer: Answer) -> None:
    recipient = make_recipient(attempts=20)
    one = settled(answer, recipient, now=recipient.expires - 600)
    assert (one.move, one.delay, one.attempts) == (Move.DEFERRED, 600, 21)


@pytest.mark.parametrize("answer", [busy, unreachable, cut])
def test_a_failure_at_the_end_is_the_last(answer: Answer) -> None:
    recipient = make_recipient(attempts=20)
    one = settled(answer, recipient, now=recipient.expires)
    outcome = said(answer)
    assert (one.move, one.action, one.attempts) == (Move.FINAL, Action.FAILED, 21)
    assert (one.reply, one.host, one.cause) == (str(outcome.reply), outcome.host, f"expired: {outcome.cause}")


def test_a_delivery_behind_the_end_is_a_delivery() -> None:
    recipient = make_recipient()
    assert settled(taken, recipient, now=recipient.expires + DAY).move is Move.DELIVERED


# --- who hears of it -----------------------------------------------------------------------------

FATES = [
    # answer, NOTIFY, sender, reportable, the hop does DSN: move, action
    (taken, "", ANN, True, False, Move.DELIVERED, None),
    (taken, "FAILURE,DELAY", ANN, True, False, Move.DELIVERED, None),
    (taken, "SUCCESS", ANN, True, False, Move.FINAL, Action.RELAYED),
    (taken, "FAILURE,SUCCESS", ANN, True, False, Move.FINAL, Action.RELAYED),
    (taken, "SUCCESS", ANN, True, True, Move.DELIVERED, None),
    (taken, "SUCCESS", ANN, False, False, Move.DELIVERED, None),
    (taken, "SUCCESS", None, True, False, Move.DELIVERED, None),
    (refused, "", ANN, True, False, Move.FINAL, Action.FAILED),
    (refused, "FAILURE", ANN, True, True, Move.FINAL, Action.FAILED),
    (refused, "NEVER", ANN, True, False, Move.SILENT, None),
    (refused, "SUCCESS,DELAY", ANN, True, False, Move.SILENT, None),
    (refused, "", None, False, False, Move.STRANDED, None),
    (refused, "NEVER", None, False, False, Move.STRANDED, None),
    (refused, "", None, True, False, Move.STRANDED, None),
    (refused, "", ANN, False, False, Move.STRANDED, None),
]


@pytest.mark.parametrize(("answer", "notify", "sender", "reportable", "dsn", "move", "action"), FATES)
def test_the_fate_of_a_recipient(
    answer: Answer, notify: str, sender: Address | None, reportable: bool, dsn: bool, move: Move, action: Action | None
) -> None:
    recipient = make_recipient(notify)
    one = settled(answer, recipient, sender=sender, is_reportable=reportable, offers_dsn=dsn)
    assert (one.move, one.action) == (move, action)


def test_a_strangers_failed_mail_is_dropped_where_that_is_configured_and_a_bounce_never_is() -> None:
    drops = Schedule.of(Queue(), Bounce(unverified=Unverified.DROP))
    assert settled(refused, make_recipient(), is_reportable=False, schedule=drops).move is Move.SILENT
    assert settled(refused, make_recipient(), sender=None, is_reportable=False, schedule=drops).move is Move.STRANDED


@pytest.mark.parametrize(
    ("warn", "notify", "is_reportable", "expected"),
    [
        (None, "", True, None),
        (4 * 3600, "", True, 4 * 3600),
        (4 * 3600, "DELAY", True, 4 * 3600),
        (4 * 3600, "FAILURE", True, None),
        (4 * 3600, "NEVER", True, None),
        (4 * 3600, "", False, None),
        (5 * DAY, "", True, None),  # it has failed by then
    ],
)
def test_whom_a_delay_is_told(warn: float | None, notify: str, is_reportable: bool, expected: float | None) -> None:
    schedule = replace(DEFAULT, warn=warn)
    warns = schedule.warns(ARRIVED, Notify(notify), is_reportable=is_reportable)
    assert warns == (None if expected is None else ARRIVED + expected)


# --- whose hop is down to the end ----------------------------------------------------------------


def test_who_was_tried_fails_with_the_last_word_he_heard() -> None:
    recipient = replace(make_recipient(attempts=3), reply="450 4.2.0 busy", host="mx.example", cause="rcpt: busy")
    one = expire(make_queued(recipient), recipient, said(unreachable), DEFAULT)
    assert (one.move, one.attempts, one.reply, one.host) == (Move.FINAL, 3, "450 4.2.0 busy", "mx.example")
    assert one.cause == "expired: rcpt: busy"


def test_who_was_never_tried_fails_with_the_last_word_of_his_hop() -> None:
    recipient, outcome = make_recipient(), said(unreachable)
    one = expire(make_queued(recipient), recipient, outcome, DEFAULT)
    assert (one.move, one.action, one.attempts) == (Move.FINAL, Action.FAILED, 0)
    assert (one.reply, one.cause) == (str(outcome.reply), "expired: connect: refused")


def test_of_a_hop_that_nobody_knows_there_is_no_word() -> None:
    recipient = make_recipient()
    one = expire(make_queued(recipient, sender=None), recipient, None, DEFAULT)
    assert (one.move, one.reply, one.cause) == (Move.STRANDED, "", "expired: not attempted")


# --- R11: histories ------------------------------------------------------------------------------

ANSWERS = st.sampled_from([busy, busy, busy, unreachable, cut, taken, refused])
STEPS = st.tuples(
    ANSWERS,
    st.floats(0, 1, exclude_max=True),  # the chance of its jitter
    st.floats(0, 3600),  # how long the attempt takes, and how late it begins
    st.sampled_from([0.0, 0.0, 0.0, DAY, -DAY]),  # how the clock jumps before it
)


@settings(max_examples=500, deadline=None)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=60),
    first=st.sampled_from([0.2, 300.0, 7200.0]),
    most=st.sampled_from([10.0, 3600.0, DAY]),
    jitter=st.sampled_from([0, 20, 50]),
    sender=st.sampled_from([ANN, None]),
)
def test_in_any_history_back_off_and_expiry_are_exact_and_the_end_comes_once(
    steps: list[tuple[Answer, float, float, float]], first: float, most: float, jitter: int, sender: Address | None
) -> None:
    schedule = replace(DEFAULT, first_retry=first, max_retry=most, jitter=jitter / 100)
    end = ARRIVED + (DAY if sender is None else 5 * DAY)
    recipient = replace(make_recipient(), expires=schedule.expires(ARRIVED, is_bounce=sender is None))
    queued = make_queued(recipient, sender=sender, is_reportable=sender is not None)
    now, due, interval = ARRIVED, ARRIVED, first
    for number, (answer, chance, late, jump) in enumerate(steps, 1):
        now = max(now + jump, due) + late  # nothing is tried before it is due, whatever the clock does
        one = settle(queued, recipient, answer(queued.envelope, BOB), now, chance, schedule, offers_dsn=False)
        assert one.attempts == number
        if answer is taken:
            assert one.move is Move.DELIVERED
            return
        if answer is refused or now >= end:
            # Whose reverse-path is null hears of nothing.
            assert (one.move, one.action) == ((Move.STRANDED, None) if sender is None else (Move.FINAL, Action.FAILED))
            return
        assert (one.move, one.action) == (Move.DEFERRED, None)
        spread = jitter / 100 * (2 * chance - 1)
        assert one.delay == pytest.approx(min(min(interval, most) * (1 + spread), end - now))
        due = now + one.delay
        assert due <= end + 1e-6
        interval = min(2 * interval, most)
        recipient = replace(recipient, attempts=one.attempts, due=due)
