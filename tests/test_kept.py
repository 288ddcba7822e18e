"""What is kept for a time, and what other workers hear of it."""

from __future__ import annotations

from relay.kept import Kept
from relay.telling import Note, Telling
from tests.support.clock import JumpingClock


class Two:
    """Two workers that keep the same, as their supervisor would connect them."""

    def __init__(self) -> None:
        self.clock, self.notes = JumpingClock(), list[Note]()
        tellings = Telling(), Telling()
        self.one, self.other = (Kept[str, str](self.clock, 60, 3, telling, "topic") for telling in tellings)
        for telling, hears in zip(tellings, reversed(tellings), strict=True):
            telling.send = lambda note, hears=hears: (self.notes.append(note), hears.hear(note))


def test_what_one_puts_the_other_has() -> None:
    two = Two()
    two.one.put("key", "value")
    assert two.other.get("key") == "value"
    assert len(two.notes) == 1  # what is heard is not told again


def test_what_one_takes_nobody_has() -> None:
    two = Two()
    two.one.put("key", "value")
    assert two.other.pop("key") == "value"
    assert two.one.pop("key") is None
    assert len(two.notes) == 2  # there was nothing to tell of the third


def test_the_time_of_what_is_heard_began_when_it_was_put() -> None:
    two = Two()
    two.one.put("key", "value")
    two.clock.jump(59)
    assert two.other.get("key") == "value"
    two.clock.jump(2)
    assert two.other.get("key") is None


def test_both_keep_no_more_than_the_most() -> None:
    two = Two()
    for number in range(5):
        two.one.put(str(number), "value")
    assert [len(two.one), len(two.other)] == [3, 3]
    assert [two.other.get(str(number)) for number in range(5)] == [None, None, "value", "value", "value"]


def test_what_comes_too_late_to_be_kept_does_no_harm() -> None:
    two = Two()
    telling = Telling()
    late = Kept[str, str](two.clock, 60, 3, telling, "topic")
    two.one.put("key", "value")
    two.clock.jump(61)
    telling.hear(two.notes[0])
    assert len(late) == 0
