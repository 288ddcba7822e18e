"""What hops said of recipients: how long it counts, and what counts as a word on the recipient at all."""

import pytest

from relay.address import Address
from relay.config.models import OnTrouble, Verify
from relay.decide.answers import Answer, Answers, Step, read, refusal, step
from relay.outcome import Outcome, Result
from relay.reply import NO_SUCH_RECIPIENT, UNVERIFIED, Reply

DAY, HOUR = 86400.0, 3600.0
SETTINGS = Verify()
NOW = 1000 * DAY

# postconf(5): address_verify_{positive,negative}_{expire,refresh}_time are 31 d, 7 d, 3 d, 3 h
STEPS = [
    (None, Step.ASK),
    (Answer(True, NOW), Step.USE),
    (Answer(True, NOW - 7 * DAY + 1), Step.USE),
    (Answer(True, NOW - 7 * DAY), Step.REFRESH),
    (Answer(True, NOW - 31 * DAY + 1), Step.REFRESH),
    (Answer(True, NOW - 31 * DAY), Step.ASK),
    (Answer(False, NOW - 3 * HOUR + 1), Step.USE),
    (Answer(False, NOW - 3 * HOUR), Step.REFRESH),
    (Answer(False, NOW - 3 * DAY + 1), Step.REFRESH),
    (Answer(False, NOW - 3 * DAY), Step.ASK),
]


@pytest.mark.parametrize(("answer", "expected"), STEPS)
def test_an_answer_is_used_then_refreshed_then_asked_for(answer: Answer | None, expected: Step) -> None:
    assert step(answer, SETTINGS, NOW) is expected


READ = [
    # result, reply, cause: what it says of the recipient
    (Result.DELIVERED, Reply(250, "1.5", "fine"), "", True),
    # RFC 3463 §3.2, §3.3
    (Result.PERMANENT, Reply(550, "1.1", "no such user"), "rcpt: 550 5.1.1 no such user", False),
    (Result.PERMANENT, Reply(550, "0.0", "no such user"), "rcpt: 550 no such user", False),
    (Result.PERMANENT, Reply(551, "1.6", "moved"), "rcpt: 551 5.1.6 moved", False),
    (Result.PERMANENT, Reply(553, "1.3", "bad name"), "rcpt: 553 5.1.3 bad name", False),
    (Result.PERMANENT, Reply(550, "2.1", "disabled"), "rcpt: 550 5.2.1 disabled", False),
    # of another thing than whether he is there
    (Result.PERMANENT, Reply(552, "2.2", "full"), "rcpt: 552 5.2.2 full", None),
    (Result.PERMANENT, Reply(552, "0.0", "full"), "rcpt: 552 full", None),
    (Result.PERMANENT, Reply(550, "7.1", "not from you"), "rcpt: 550 5.7.1 not from you", None),
    (Result.PERMANENT, Reply(550, "1.8", "bad sender"), "rcpt: 550 5.1.8 bad sender", None),
    (Result.PERMANENT, Reply(554, "0.0", "go away"), "rcpt: 554 go away", None),
    (Result.PERMANENT, Reply(550, "0.0", "bad sender"), "mail: 550 bad sender", None),
    # trouble
    (Result.TEMPORARY, Reply(450, "2.1", "greylisted"), "rcpt: 450 4.2.1 greylisted", None),
    (Result.TEMPORARY, Reply(451, "4.1", "unreachable"), "connect: refused", None),
    (Result.AMBIGUOUS, Reply(451, "4.2", "silent"), "dot: silent", None),
]


@pytest.mark.parametrize(("result", "reply", "cause", "expected"), READ)
def test_only_a_plain_word_on_the_recipient_makes_him_unknown(
    result: Result, reply: Reply, cause: str, expected: bool | None
) -> None:
    assert read(Outcome(Address("ann", "ours.org"), result, reply, "box", "", cause)) is expected


ACCEPT, DEFER = OnTrouble.ACCEPT, OnTrouble.DEFER
KNOWN, UNKNOWN = Answer(True, 0.0), Answer(False, 0.0)
REFUSALS = [
    # kept, what the hop says now, on_trouble: refusal
    (None, True, DEFER, None),
    (None, False, ACCEPT, NO_SUCH_RECIPIENT),
    (None, None, ACCEPT, None),
    (None, None, DEFER, UNVERIFIED),
    (KNOWN, None, DEFER, None),  # an old positive answer wins over trouble
    (KNOWN, False, ACCEPT, NO_SUCH_RECIPIENT),
    (UNKNOWN, None, ACCEPT, None),
    (UNKNOWN, None, DEFER, UNVERIFIED),
    (UNKNOWN, True, DEFER, None),
]


@pytest.mark.parametrize(("kept", "said", "on_trouble", "expected"), REFUSALS)
def test_trouble_refuses_nobody_for_good(
    kept: Answer | None, said: bool | None, on_trouble: OnTrouble, expected: Reply | None
) -> None:
    assert refusal(kept, said, on_trouble) == expected


def test_the_oldest_go_first_and_made_up_names_before_all() -> None:
    answers = Answers()
    answers.keep(("box", "ann@ours.org"), KNOWN, 4)
    answers.keep(("box", "bob@ours.org"), KNOWN, 4)
    for n in range(1000):
        answers.keep(("box", f"x{n}@ours.org"), UNKNOWN, 4)
    assert len(answers) == 4
    assert answers.get(("box", "ann@ours.org")) == KNOWN
    assert answers.get(("box", "x998@ours.org")) == answers.get(("box", "x999@ours.org")) == UNKNOWN
    for name in ("carl", "dora", "emil"):
        answers.keep(("box", f"{name}@ours.org"), KNOWN, 4)
    assert answers.get(("box", "ann@ours.org")) is None
    assert answers.get(("box", "bob@ours.org")) == KNOWN


def test_a_new_answer_takes_the_place_of_the_old() -> None:
    answers, key = Answers(), ("box", "ann@ours.org")
    answers.keep(key, KNOWN, 10)
    answers.keep(key, Answer(False, 5.0), 10)
    assert answers.get(key) == Answer(False, 5.0)
    assert len(answers) == 1
    answers.keep(key, Answer(True, 9.0), 10)
    assert answers.get(key) == Answer(True, 9.0)
    assert answers.get(("other", "ann@ours.org")) is None
    assert len(answers) == 1
