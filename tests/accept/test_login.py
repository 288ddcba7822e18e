"""Who may log in, what it costs, and who may send as whom."""

import asyncio
import threading
from pathlib import Path

import argon2
import pytest

from relay.accept.login import Login, Logins, LoginsBusy, check_argon2, may_send_as, read_file
from relay.address import Address
from relay.config import models
from relay.errors import ConfigError
from tests.support.clock import JumpingClock

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = CHEAP.hash("correct horse")


class Counted:
    """Computes real hashes and counts them; `gate` holds them back."""

    def __init__(self) -> None:
        self.hashes = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, hashed: str, password: str) -> bool:
        self.hashes += 1
        self.gate.wait(20)
        return check_argon2(hashed, password)


@pytest.fixture
def check() -> Counted:
    return Counted()


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def logins(check: Counted, clock: JumpingClock):
    made = Logins(
        {"app": (HASH, ("app@example.org",)), "other": (CHEAP.hash("battery staple"), ())},
        models.Login(),
        clock=clock,
        key=b"k" * 32,
        check=check,
    )
    yield made
    made.close()


async def test_a_right_password_gives_the_login(logins: Logins) -> None:
    assert await logins.verify("app", "correct horse") == Login("app", ("app@example.org",))
    assert logins.senders("app") == ("app@example.org",)
    assert logins.senders("nobody") == ()


@pytest.mark.parametrize(
    ("name", "password"), [("app", "wrong"), ("nobody", "correct horse"), ("nobody", ""), ("APP", "correct horse")]
)
async def test_whoever_may_not_enter_costs_exactly_one_hash(
    logins: Logins, check: Counted, name: str, password: str
) -> None:
    """R27: a name that is not known is not faster."""
    assert await logins.verify(name, password) is None
    assert check.hashes == 1
    assert await logins.verify(name, password) is None
    assert check.hashes == 2


async def test_a_verified_login_costs_no_hash_for_five_minutes(
    logins: Logins, check: Counted, clock: JumpingClock
) -> None:
    for _ in range(20):
        assert await logins.verify("app", "correct horse")
    assert check.hashes == 1
    assert await logins.verify("app", "wrong") is None
    assert check.hashes == 2
    clock.jump(299)
    assert await logins.verify("app", "correct horse")
    assert check.hashes == 2
    clock.jump(2)
    assert await logins.verify("app", "correct horse")
    assert check.hashes == 3


async def test_what_is_remembered_is_no_password_and_is_cleared(logins: Logins, clock: JumpingClock) -> None:
    await logins.verify("app", "correct horse")
    assert "correct horse" not in repr(vars(logins))
    assert logins._verified
    clock.jump(301)
    await logins.verify("nobody", "x")
    assert not logins._verified


async def test_two_hashes_at_once_and_no_more(logins: Logins, check: Counted) -> None:
    check.gate.clear()
    under_way = [asyncio.ensure_future(logins.verify("app", "correct horse")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LoginsBusy):
        await logins.verify("other", "battery staple")
    check.gate.set()
    assert all(await asyncio.gather(*under_way))
    assert await logins.verify("other", "battery staple")
    assert check.hashes == 3


async def test_the_hash_for_unknown_names_has_the_price_of_the_real_ones(logins: Logins) -> None:
    assert argon2.extract_parameters(logins._dummy) == argon2.extract_parameters(HASH)


@pytest.mark.parametrize(
    ("senders", "address", "may"),
    [
        ((), Address("app", "example.org"), False),
        ((), None, True),
        (("*",), Address("app", "example.org"), True),
        (("app@example.org",), Address("app", "example.org"), True),
        (("app@example.org",), Address("APP", "Example.ORG"), True),
        (("app@example.org",), Address('"app"', "example.org"), True),
        (("app@example.org",), Address("app2", "example.org"), False),
        (("@example.org",), Address("anyone", "EXAMPLE.org"), True),
        (("@example.org",), Address("anyone", "sub.example.org"), False),
        (("@example.org",), Address("anyone", "badexample.org"), False),
        (("@example.org",), Address("x@example.org", "evil.test"), False),
        (("@exämple.org",), Address("x", "xn--exmple-cua.org"), True),
        (("@a.test", "b@c.test"), Address("b", "c.test"), True),
    ],
)
def test_who_may_send_as_whom(senders: tuple[str, ...], address: Address | None, may: bool) -> None:
    assert may_send_as(senders, address) is may


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "logins"
    file.touch(mode=0o600)
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_login_file(tmp_path: Path) -> None:
    file = written(
        tmp_path, f"# comment\n\napp: {HASH} app@example.org @example.net\n  other:{HASH}\nall:\t{HASH}\t*\n"
    )
    assert read_file(file) == {
        "app": (HASH, ("app@example.org", "@example.net")),
        "other": (HASH, ()),
        "all": (HASH, ("*",)),
    }


def test_every_bad_line_is_named_and_no_hash_is_shown(tmp_path: Path) -> None:
    bad = [
        "no colon here",
        f": {HASH}",
        "app:",
        "app: secret-in-clear app@example.org",
        "app: $argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
        f"app: {HASH} example.org",
        f"app: {HASH} @",
        f"app: {HASH} a@b@c",
    ]
    with pytest.raises(ConfigError) as caught:
        read_file(written(tmp_path, "\n".join(bad)))
    assert [problem.key for problem in caught.value.problems] == [f"line {number}" for number in range(1, 9)]
    assert "secret" not in str(caught.value)
    assert HASH not in str(caught.value)


def test_a_name_stands_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2.*twice"):
        read_file(written(tmp_path, f"app: {HASH}\napp: {HASH}\n"))


def test_others_may_not_read_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod"):
        read_file(written(tmp_path, f"app: {HASH}\n", 0o644))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / "absent")
