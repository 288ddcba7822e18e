"""One hop's window, and turns: what is down costs a probe, what is slow costs nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.address import Address
from relay.outcome import Outcome, Result
from relay.queue.destination import NEW, START, Change, Destination, Destinations
from relay.reply import HOP_UNREACHABLE, OK
from tests.support.scripted_hop import LATER

BOB = Address("bob", "example.net")
TAKEN = (Outcome(BOB, Result.DELIVERED, OK, "next"),)
BUSY = (Outcome(BOB, Result.TEMPORARY, LATER, "next"),)
CUT = (Outcome(BOB, Result.AMBIGUOUS, LATER, "next", cause="dot: cut"),)
TROUBLE = (Outcome(BOB, Result.TEMPORARY, HOP_UNREACHABLE, "next", cause="connect: refused", is_about_hop=True),)
CONNECTIONS = 20


def delay(failures: int) -> float:
    return 100.0 * 2 ** (failures - 1)


class Hop:
    """A destination with as much ready as anybody could want, and a clock."""

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self.now, self.connections = 0.0, connections
        self.destination: Destination[object] = Destination()

    @property
    def room(self) -> int:
        return self.destination.room(self.now, self.connections)

    def begin(self, count: int = 1) -> list[object]:
        assert self.room >= count
        self.destination.ready.extend(object() for _ in range(count))
        return [self.destination.begin() for _ in range(count)]

    def end(self, item: object, outcomes: tuple[Outcome, ...]) -> Change | None:
        return self.destination.end(item, outcomes, self.now, self.connections, delay)

    def go_down(self) -> None:
        while not self.destination.is_down:
            self.end(*self.begin(), TROUBLE)

    def open(self, window: int) -> None:
        while self.room < window:
            self.end(*self.begin(), TAKEN)


# --- slow start ----------------------------------------------------------------------------------


def test_a_burst_for_an_unknown_hop_begins_with_two_attempts() -> None:
    assert Hop().room == START == 2


def test_each_delivery_makes_room_for_one_more_up_to_the_connections() -> None:
    hop, rooms = Hop(connections=5), []
    for _ in range(6):
        hop.end(*hop.begin(), TAKEN)
        rooms.append(hop.room)
    assert rooms == [3, 4, 5, 5, 5, 5]


def test_mail_that_is_put_off_says_nothing_for_or_against_its_hop() -> None:
    hop = Hop()
    hop.open(7)
    for outcomes in (BUSY, CUT):
        hop.end(*hop.begin(), outcomes)
        assert hop.room == 7


def test_trouble_with_the_hop_halves_the_window() -> None:
    hop = Hop()
    hop.open(20)
    hop.end(*hop.begin(), TROUBLE)
    assert hop.room == 10


def test_what_runs_takes_room() -> None:
    hop = Hop()
    hop.open(5)
    hop.begin(3)
    assert hop.room == 2


def test_a_reload_that_allows_fewer_connections_counts_at_once() -> None:
    hop = Hop()
    hop.open(20)
    hop.connections = 3
    assert hop.room == 3


# --- down ----------------------------------------------------------------------------------------


def test_a_hop_that_nobody_has_reached_is_down_behind_two_attempts() -> None:
    hop = Hop()
    first, second = hop.begin(2)
    assert hop.end(first, TROUBLE) is None
    assert hop.room == 0
    assert hop.end(second, TROUBLE) is Change.DOWN
    assert hop.room == 0


def test_a_thousand_messages_for_a_hop_that_is_down_cost_one_attempt_a_probe() -> None:
    hop, attempts = Hop(), []
    hop.destination.ready.extend(object() for _ in range(1000))
    for second in range(3200):
        hop.now = float(second)
        while hop.room:
            attempts.append(second)
            hop.end(hop.destination.begin(), TROUBLE)
    # Two that found it down, and a probe after 100 s, 200 s more, 400 s more ...
    assert attempts == [0, 0, 100, 300, 700, 1500, 3100]


def test_there_is_one_probe_at_a_time() -> None:
    hop = Hop()
    hop.go_down()
    hop.now = 100.0
    (probe,) = hop.begin()
    assert hop.room == 0
    hop.now = 10_000.0
    assert hop.room == 0
    assert hop.end(probe, TROUBLE) is Change.DOWN
    assert hop.destination.retry_at == 10_000.0 + 200.0


def test_a_probe_that_gets_through_ends_it_even_if_its_own_mail_does_not() -> None:
    for outcomes in (TAKEN, BUSY, CUT):
        hop = Hop()
        hop.go_down()
        hop.now = 100.0
        assert hop.end(*hop.begin(), outcomes) is Change.UP
        assert hop.room == START
        assert hop.destination.failures == 0


def test_stragglers_do_not_put_the_probe_off() -> None:
    hop = Hop()
    hop.open(20)
    running = hop.begin(20)
    changes = [hop.end(one, TROUBLE) for one in running]
    assert changes.count(Change.DOWN) == 1
    assert hop.destination.retry_at == 100.0
    assert hop.destination.active == 0


def test_a_straggler_that_ends_beside_the_probe_does_not_make_room_for_another() -> None:
    hop = Hop()
    hop.open(20)
    straggler, *others = hop.begin(6)
    for one in others:
        hop.end(one, TROUBLE)
    hop.now = 100.0
    hop.begin()
    assert hop.end(straggler, TROUBLE) is None
    assert hop.room == 0


def test_a_straggler_that_is_delivered_shows_that_the_hop_is_up() -> None:
    hop = Hop()
    hop.open(20)
    straggler, *others = hop.begin(6)
    for one in others:
        hop.end(one, TROUBLE)
    assert hop.destination.is_down
    assert hop.end(straggler, TAKEN) is Change.UP


def test_a_probe_that_learnt_nothing_is_repeated() -> None:
    hop = Hop()
    hop.go_down()
    hop.now = 100.0
    (probe,) = hop.begin()
    hop.destination.leave(probe)
    assert hop.room == 1


def test_what_is_forgotten_begins_anew() -> None:
    hop = Hop()
    hop.go_down()
    hop.destination.forget()
    assert hop.room == START
    assert not hop.destination.is_down


@given(st.lists(st.sampled_from(["begin", "taken", "busy", "trouble", "leave", "wait"]), max_size=200))
def test_whatever_happens_the_hop_never_has_more_than_its_connections_and_always_gets_another_attempt(
    steps: list[str],
) -> None:
    hop, running = Hop(connections=7), list[object]()
    for step in steps:
        if step == "begin" and hop.room:
            running += hop.begin()
        elif step == "wait":
            hop.now += 50
        elif step == "leave" and running:
            hop.destination.leave(running.pop(0))
        elif step in ("taken", "busy", "trouble") and running:
            hop.end(running.pop(0), {"taken": TAKEN, "busy": BUSY, "trouble": TROUBLE}[step])
        assert hop.destination.active == len(running) <= 7
    for one in running:
        hop.destination.leave(one)
    hop.now += delay(max(1, hop.destination.failures))
    assert hop.room >= 1


# --- what waits in memory ------------------------------------------------------------------------


def test_so_many_new_messages_wait_in_memory_and_no_more() -> None:
    hop = Hop()
    hop.destination.new.extend(object() for _ in range(NEW - 1))
    assert hop.destination.takes_new
    hop.destination.coming = 1
    assert not hop.destination.takes_new


def test_old_mail_and_new_take_turns() -> None:
    hop = Hop()
    hop.destination.ready.extend(["old 1", "old 2"])
    hop.destination.new.extend(["new 1", "new 2", "new 3", "new 4"])
    begun = [hop.destination.begin() for _ in range(6)]
    assert begun == ["new 1", "old 1", "new 2", "old 2", "new 3", "new 4"]


def test_however_much_is_new_the_old_is_asked_for() -> None:
    hop = Hop()
    hop.open(6)
    hop.destination.new.extend(object() for _ in range(NEW))
    assert hop.destination.wants(hop.now, CONNECTIONS) == 6
    hop.destination.ready.extend(object() for _ in range(6))
    assert hop.destination.wants(hop.now, CONNECTIONS) == 0


def test_for_a_hop_that_is_down_nothing_waits_in_memory_but_the_probe() -> None:
    hop = Hop()
    hop.go_down()
    assert not hop.destination.takes_new
    assert not hop.destination.may_wait(hop.now, CONNECTIONS)
    assert hop.destination.wants(hop.now, CONNECTIONS) == 0
    hop.now = 100.0
    assert hop.destination.wants(hop.now, CONNECTIONS) == 1
    assert hop.destination.may_wait(hop.now, CONNECTIONS)
    hop.destination.ready.append(object())
    assert hop.destination.wants(hop.now, CONNECTIONS) == 0
    assert not hop.destination.may_wait(hop.now, CONNECTIONS)


# --- turns ---------------------------------------------------------------------------------------


def test_a_long_queue_at_one_hop_does_not_delay_another() -> None:
    destinations: Destinations[str] = Destinations(at_once=2)
    destinations["long"].ready.extend("long" for _ in range(1000))
    destinations["short"].ready.append("short")
    begun = [destinations.begin(0.0, {}), destinations.begin(0.0, {})]
    assert sorted(map(str, begun)) == ["long", "short"]


def test_all_hops_together_have_no_more_than_the_cap() -> None:
    destinations: Destinations[str] = Destinations(at_once=3)
    for name in "abcde":
        destinations[name].ready.extend([name] * 2)
    begun = [destinations.begin(0.0, {}) for _ in range(4)]
    assert begun == ["a", "b", "c", None]
    destinations["a"].leave("a")
    assert destinations.begin(0.0, {}) == "d"


def test_a_hop_without_room_is_passed_over() -> None:
    destinations: Destinations[str] = Destinations()
    destinations["full"].ready.extend("full" for _ in range(10))
    destinations["free"].ready.append("free")
    begun = [destinations.begin(0.0, {"full": 1}) for _ in range(3)]
    assert begun == ["full", "free", None]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 10))
def test_nobody_waits_longer_than_one_round(lengths: list[int], at_once: int) -> None:
    destinations: Destinations[tuple[int, int]] = Destinations(at_once)
    for name, length in enumerate(lengths):
        destinations[str(name)].ready.extend((name, number) for number in range(length))
        destinations[str(name)].window = 100
    order = []
    while (one := destinations.begin(0.0, dict.fromkeys(map(str, range(6)), 100))) is not None:
        order.append(one)
        destinations[str(one[0])].leave(one)
    assert len(order) == sum(lengths)
    # The n-th of a hop goes in the n-th round: behind it there is nobody of an earlier one.
    assert [number for _, number in order] == sorted(number for _, number in order)


def test_what_waits_can_be_taken_back() -> None:
    destinations: Destinations[str] = Destinations()
    destinations["a"].ready.append("a1")
    destinations["b"].ready.append("b1")
    destinations["b"].new.append("b2")
    assert destinations.take_ready("b") == ["b1", "b2"]
    assert destinations.take_ready() == ["a1"]
    assert destinations.begin(0.0, {}) is None
