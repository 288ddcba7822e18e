"""What is counted of failed logins, and for how long."""

import pytest

from relay.accept import failures
from relay.accept.failures import TRUST, Failures
from relay.config.models import Login
from tests.support.clock import JumpingClock


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def counted(clock: JumpingClock) -> Failures:
    return Failures(Login(failures=3, failures_window="60s"), clock)


def is_locked(counted: Failures, name: str, address: str, *, exempt: bool = False) -> bool:
    return counted.is_locked(name, address, exempt=exempt)


def test_the_window_slides(counted: Failures, clock: JumpingClock) -> None:
    for _ in range(3):
        counted.failed("app", "A")
        clock.jump(20)
    assert not is_locked(counted, "app", "A")  # the first is 60 s old
    counted.failed("app", "A")
    assert is_locked(counted, "app", "A")
    clock.jump(19.9)
    assert is_locked(counted, "app", "A")
    clock.jump(0.2)
    assert not is_locked(counted, "app", "A")


@pytest.mark.parametrize(
    ("name", "address", "exempt", "locked"),
    [
        ("app", "A", False, True),
        ("app", "B", False, True),  # the name is guessed at
        ("other", "A", False, True),  # the address guesses
        ("other", "A", True, False),  # unless many share it
        ("app", "A", True, True),
        ("other", "B", False, False),
    ],
)
def test_a_name_and_an_address_are_counted(
    counted: Failures, name: str, address: str, exempt: bool, locked: bool
) -> None:
    for _ in range(3):
        counted.failed("app", "A")
    assert is_locked(counted, name, address, exempt=exempt) is locked


def test_a_name_and_an_address_that_look_alike_are_two(counted: Failures) -> None:
    for _ in range(3):
        counted.failed("192.0.2.1", "A")
    assert not is_locked(counted, "app", "192.0.2.1")


def test_an_address_stays_known_for_a_day(counted: Failures, clock: JumpingClock) -> None:
    counted.passed("app", "A")
    for _ in range(3):
        counted.failed("app", "B")
        counted.failed("other", "A")
    assert not is_locked(counted, "app", "A")
    clock.jump(TRUST + 1)
    for _ in range(3):
        counted.failed("app", "B")
    assert is_locked(counted, "app", "A")


def test_a_right_password_forgives_its_own_slips_only(counted: Failures) -> None:
    for _ in range(2):
        counted.failed("app", "A")
    counted.passed("app", "A")
    counted.failed("app", "A")
    assert not is_locked(counted, "app", "A")
    assert is_locked(counted, "app", "B")


def test_new_limits_find_what_was_counted(counted: Failures) -> None:
    counted.failed("app", "A")
    counted.update(Login(failures=1, failures_window="60s"))
    assert is_locked(counted, "app", "A")


def test_memory_is_bounded_and_the_oldest_go_first(counted: Failures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_KEPT", 30)
    for number in range(1000):
        counted.failed(f"user{number}", f"A{number}")
        counted.passed(f"user{number}", f"B{number}")
        for _ in range(3):
            counted.failed("app", "A")
    assert len(counted._times) == 30
    assert len(counted._trusted) == 30
    assert is_locked(counted, "app", "A")
    assert max(len(times) for times in counted._times.values()) == 3
