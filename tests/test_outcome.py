"""One reply for all recipients of a proxied message."""

import pytest

from relay.address import Address
from relay.outcome import Outcome, Result, one_reply
from relay.reply import DISAGREE, Reply

OK, FULL, NO_USER = Reply(250, "0.0", "taken"), Reply(452, "2.2", "full"), Reply(550, "1.1", "no such user")
SENT, LATER, NEVER = Result.DELIVERED, Result.TEMPORARY, Result.PERMANENT

ROWS = [
    ([(SENT, OK)], "250 2.0.0 taken [m1]"),
    ([(SENT, OK), (SENT, OK)], "250 2.0.0 taken [m1]"),
    ([(NEVER, NO_USER)], "550 5.1.1 no such user"),
    ([(LATER, FULL), (LATER, FULL)], "452 4.2.2 full"),
    ([(LATER, DISAGREE), (NEVER, NO_USER)], str(DISAGREE)),
    # One recipient was fine and the other is full: telling the second's answer would hide the first.
    ([(LATER, FULL), (LATER, DISAGREE)], str(DISAGREE)),
]


@pytest.mark.parametrize(("outcomes", "reply"), ROWS)
def test_the_client_gets_one_reply(outcomes: list[tuple[Result, Reply]], reply: str) -> None:
    made = [Outcome(Address(f"u{i}", "x.org"), result, said, "hop") for i, (result, said) in enumerate(outcomes)]
    assert str(one_reply("m1", made)) == reply
