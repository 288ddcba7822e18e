"""What is counted, and where it ends: pure, then over real connections."""

from ipaddress import ip_address, ip_network

import pytest

from relay import reply
from relay.accept.limits import Load, Reservation, holder, plain_ip
from relay.config.models import Limit, Stress
from tests.support.smtp_client import code, smtp_client
from tests.support.stages import Scripted, listening

OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def load(**limits: object) -> Load:
    return Load(Limit.model_validate(limits), Stress(), 500, lambda on: None)


def test_connections_over_all_listeners() -> None:
    counted = load(connections=2)
    assert counted.enter() is None
    assert counted.enter() is None
    assert counted.enter() is reply.TOO_MANY_CONNECTIONS
    counted.leave()
    assert counted.enter() is None


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),  # one /64 is one customer
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
def test_connections_of_one_address(first: str, second: str, are_one: bool) -> None:
    counted = load(connections_per_ip=1)
    one, other = holder(plain_ip(first)), holder(plain_ip(second))
    assert counted.hold(one) is None
    assert counted.hold(other) is (reply.TOO_MANY_FROM_YOU if are_one else None)
    counted.let_go(one)
    assert counted.hold(one) is None


@pytest.mark.parametrize(
    ("ip", "is_exempt"),
    [("127.0.0.1", True), ("::1", True), ("203.0.113.7", True), ("203.0.114.7", False), ("2001:db8::1", False)],
)
def test_loopback_and_listed_networks_are_exempt(ip: str, is_exempt: bool) -> None:
    assert load(exempt=(ip_network("203.0.113.0/24"),)).is_exempt(ip_address(ip)) is is_exempt


def test_nothing_is_kept_of_clients_that_have_gone() -> None:
    counted = load()
    for host in range(100):
        who = holder(ip_address(0xC0000200 + host))
        counted.hold(who)
        counted.let_go(who)
    assert not counted.counts.held


@pytest.mark.parametrize(
    ("connections", "above", "first_high"),
    [(10, 80, 9), (1000, 80, 801), (3, 50, 2), (7, 33, 3), (10, 100, None), (1, 80, 1)],
)
def test_load_is_high_above_a_percentage(connections: int, above: int, first_high: int | None) -> None:
    told: list[bool] = []
    counted = Load(Limit(connections=connections), Stress(above=above), 500, told.append)
    states = []
    for _ in range(connections):
        counted.enter()
        states.append(counted.is_high)
    assert (states.index(True) + 1 if True in states else None) == first_high
    for _ in range(connections):
        counted.leave()
    assert told == ([True, False] if first_high else [])


def test_new_limits_find_what_was_counted() -> None:
    told: list[bool] = []
    counted = Load(Limit(connections=10), Stress(), 500, told.append)
    for _ in range(5):
        counted.enter()
    counted.update(Limit(connections=5), Stress(), 500)
    assert counted.enter() is reply.TOO_MANY_CONNECTIONS
    counted.update(Limit(connections=50), Stress(), 500)
    assert counted.enter() is None
    assert told == [True, False]


def test_a_reservation_never_exceeds_the_memory_and_gives_all_back() -> None:
    counted = load(memory="200 KiB")
    one, two = Reservation(counted, 10**6), Reservation(counted, 10**6)
    assert one.grow(100_000) is None
    assert two.grow(60_000) is None
    assert two.grow(70_000) is reply.OUT_OF_MEMORY
    assert 100_000 <= counted.memory <= 200 * 1024
    one.release()
    one.release()
    two.release()
    assert counted.memory == 0
    assert Reservation(counted, 99).grow(100) is reply.TOO_BIG


def test_sleepers() -> None:
    counted = Load(Limit(), Stress(), 1, lambda on: None)
    assert counted.lie_down()
    assert not counted.lie_down()
    counted.get_up()
    assert counted.lie_down()


def capture(**tables: object) -> dict[str, object]:
    return {"listener": {"capture": {"role": "capture", "max_message_size": "100 KiB"}}, **tables}


async def test_too_many_connections_are_told_so_and_the_slot_comes_back() -> None:
    async with listening(Scripted(), capture(limit={"connections": 1})) as relay:
        async with smtp_client(relay.address("capture")) as client:
            assert code(await client.read()) == "220"
            async with smtp_client(relay.address("capture")) as other:
                assert [code(text) for text in await other.rest()] == ["421 4.7.0"]
        await relay.until(lambda: relay.listeners.load.connections == 0)
        async with smtp_client(relay.address("capture")) as client:
            assert code(await client.read()) == "220"
        (fact,) = relay.of("refused")
        assert fact.values["why"] == "limit"


async def test_recipients_beyond_the_limit_are_452_and_the_first_get_their_mail() -> None:
    """RFC 5321 §4.5.3.1.10."""
    stages = Scripted()
    async with (
        listening(stages, capture(limit={"recipients": 100})) as relay,
        smtp_client(relay.address("capture")) as client,
    ):
        await client.read()
        await client.converse(*OPEN[:2])
        client.send(b"".join(b"RCPT TO:<user%d@example.net>\r\n" % number for number in range(150)))
        codes = [code(await client.read()) for _ in range(150)]
        assert codes == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 50
        await client.say(b"DATA")
        assert code(await client.say(b"x\r\n.")) == "250 2.0.0"
        assert len(stages.received[0][0].recipients) == 100


@pytest.mark.parametrize(
    ("limits", "line", "answers"),
    [
        ({"errors": 5}, b"FOO", ["500 5.5.1"] * 5),
        ({"junk": 7}, b"NOOP", ["250 2.0.0"] * 8),
        ({"junk": 7}, b"RSET", ["250 2.0.0"] * 8),
        ({"junk": 7}, b"EHLO again.test", ["250"] * 8),
    ],
)
async def test_errors_and_junk_end_the_session(limits: dict[str, int], line: bytes, answers: list[str]) -> None:
    async with listening(Scripted(), capture(limit=limits)) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        client.send((line + b"\r\n") * 50)
        assert [code(text) for text in await client.rest()] == [*answers, "421 4.7.0"]


async def test_accepted_mail_pays_for_errors_and_junk() -> None:
    tables = capture(limit={"errors": 3, "junk": 3})
    async with listening(Scripted(), tables) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.say(b"EHLO client.test")
        for _ in range(5):
            assert await client.converse(b"FOO", b"NOOP", b"FOO", *OPEN[1:], b"DATA", b"x\r\n.") == [
                *("500 5.5.1", "250 2.0.0", "500 5.5.1", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
            ]


async def test_a_message_over_the_size_is_read_to_its_end_and_refused() -> None:
    """RFC 1870 §6.3, D9: whatever SIZE said."""
    stages = Scripted()
    async with listening(stages, capture()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(OPEN[0], b"MAIL FROM:<ann@example.org> SIZE=1", OPEN[2], b"DATA")
        assert code(await client.say(b"x" * 70 + b"\r\n" + b"12345678\r\n" * 12_000 + b".")) == "552 5.3.4"
        assert await client.converse(*OPEN[1:], b"DATA") == ["250 2.1.0", "250 2.1.5", "354"]
        exact = b"x" * (100 * 1024 - 2) + b"\r\n"
        assert code(await client.say(exact + b".")) == "250 2.0.0"
    assert stages.contents == [exact]


async def test_a_message_without_end_is_not_read_for_ever() -> None:
    async with listening(Scripted(), capture()) as relay, smtp_client(relay.address("capture")) as client:
        await client.read()
        await client.converse(*OPEN, b"DATA")
        client.send(b"x" * 3_000_000)
        assert [code(text) for text in await client.rest()] == ["552 5.3.4"]
