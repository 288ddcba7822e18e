"""The ledger of the crash runs can fail: each broken promise is a fault, each explained copy is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.ledger import Copy, Doubt, Submission, balance

ANN, BOB = "ann@there.test", "bob@there.test"
SENT = Submission("s1", (ANN, BOB), "d1", is_acknowledged=True)
TAKEN = Copy("s1", (ANN, BOB), "d1", "q1", taken=10.0, closed=11.0)
REPORT = Copy("", ("s1@here.test",), "", "q2", 12.0, report="<r1@relay>", reported=(("s1", BOB),))


def test_what_was_promised_and_arrived_is_in_balance() -> None:
    found = balance([SENT], [TAKEN], [], [])
    assert found.faults == []
    assert (found.acknowledged, found.delivered, found.copies) == (2, 2, 0)


def test_an_acknowledged_recipient_without_a_copy_is_lost() -> None:
    assert balance([SENT], [replace(TAKEN, recipients=(ANN,))], [], []).faults == [f"lost: s1 for {BOB}"]
    assert balance([SENT], [], [], []).lost == [("s1", ANN), ("s1", BOB)]


def test_nothing_was_promised_without_a_250() -> None:
    unheard = replace(SENT, is_acknowledged=False)
    assert balance([unheard], [], [], []).faults == []
    found = balance([unheard], [TAKEN], [], [])
    assert found.faults == []
    assert found.unacknowledged == 2


def test_a_refused_recipient_is_reported_once() -> None:
    taken, refused = replace(TAKEN, recipients=(ANN,)), [("s1", BOB)]
    assert balance([SENT], [taken], refused, []).lost == [("s1", BOB)]
    assert balance([SENT], [taken, REPORT], refused, []).faults == []
    second = replace(REPORT, report="<r2@relay>", queue_id="q3")
    assert balance([SENT], [taken, REPORT, second], refused, []).faults == [f"reported 2 times: {('s1', BOB)}"]


def test_a_report_of_what_was_not_refused_is_wrong() -> None:
    found = balance([SENT], [TAKEN, REPORT], [], [])
    assert found.faults == [f"reported, though never refused: {('s1', BOB)}"]
    assert balance([SENT], [TAKEN, replace(REPORT, reported=())], [], []).faults == [
        "a report about nobody: <r1@relay>"
    ]


@pytest.mark.parametrize("again", [replace(TAKEN, taken=20.0), replace(TAKEN, taken=20.0, queue_id="q9")])
def test_a_second_copy_needs_a_reason(again: Copy) -> None:
    again = replace(again, recipients=(BOB,))
    assert balance([SENT], [TAKEN, again], [], []).faults == [f"2 copies of s1 for {BOB}, and no reason for it"]
    # A reason about someone else, or about another message, is none.
    others = [Doubt("q1", ANN, "crash"), Doubt("q5", BOB, "crash")]
    assert len(balance([SENT], [TAKEN, again], [], others).faults) == 1
    found = balance([SENT], [TAKEN, again], [], [Doubt("q1", BOB, "crash")])
    assert found.faults == []
    assert found.copies == 1
    assert dict(found.causes) == {"crash": 1}


def test_one_reason_explains_one_copy() -> None:
    copies = [replace(TAKEN, recipients=(ANN,), taken=at) for at in (10.0, 20.0, 30.0)]
    sent = replace(SENT, recipients=(ANN,))
    doubt = Doubt("q1", ANN, "dot: cut")
    assert len(balance([sent], copies, [], [doubt]).unexplained) == 1
    assert balance([sent], copies, [], [doubt, doubt]).faults == []


def test_a_copy_of_a_report_needs_a_reason_too() -> None:
    taken, refused, again = replace(TAKEN, recipients=(ANN,)), [("s1", BOB)], replace(REPORT, taken=15.0)
    assert len(balance([SENT], [taken, REPORT, again], refused, []).unexplained) == 1
    assert balance([SENT], [taken, REPORT, again], refused, [Doubt("q2", "s1@here.test", "crash")]).faults == []


@pytest.mark.parametrize(
    ("kill", "explains"),
    [
        (9.9, False),  # before the hop took it
        (10.1, True),
        (11.1, False),  # its connection had ended before
        (19.0, False),
    ],
)
def test_a_kill_explains_what_was_in_flight_and_nothing_else(kill: float, *, explains: bool) -> None:
    again = replace(TAKEN, taken=20.0, closed=None)
    assert (balance([SENT], [TAKEN, again], [], [], [kill]).faults == []) is explains


def test_a_kill_long_after_the_hop_took_it_explains_nothing() -> None:
    kept = replace(TAKEN, closed=None)  # its connection is still open
    assert len(balance([SENT], [kept, replace(kept, taken=90.0)], [], [], [80.0]).unexplained) == 2


def test_content_is_compared() -> None:
    assert balance([SENT], [replace(TAKEN, digest="d2")], [], []).faults == ["damaged: s1"]
    assert balance([], [TAKEN], [], []).faults == ["nobody sent 's1'"]


def test_a_copy_for_somebody_else_is_a_fault() -> None:
    astray = replace(TAKEN, recipients=(ANN, BOB, "eve@there.test"))
    assert len(balance([SENT], [astray], [], []).damaged) == 1
