"""The table of troubles: it leaves nothing open, and keeps the promises made for it."""

from itertools import product

import pytest

from relay.forward.replies import HopReply
from relay.forward.trouble import TABLE, Fault, Phase, Trouble, judge, refusal, row_for
from relay.outcome import Result

BEFORE_MAIL = (Phase.WAIT, Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.AUTH, Phase.IDENTIFY)
REPLIES = {Fault.CLOSING: 421, Fault.TEMPORARY: 450, Fault.PERMANENT: 550}
# No socket to fail and no TLS to negotiate once a transaction runs.
CANNOT_BE = set(
    product(set(Phase) - set(BEFORE_MAIL), (Fault.UNREACHABLE, Fault.TLS, Fault.SETTINGS)),
)
CAN_BE = [pair for pair in product(Phase, Fault) if pair not in CANNOT_BE]


def trouble(phase: Phase, fault: Fault) -> Trouble:
    reply = HopReply(REPLIES[fault], (b"4.0.0 text" if fault is not Fault.PERMANENT else b"5.0.0 text",)) \
        if fault in REPLIES else None  # fmt: skip
    return Trouble(phase, fault, reply=reply)


@pytest.mark.parametrize(("phase", "fault"), CAN_BE)
def test_every_trouble_has_a_verdict_that_keeps_the_promises(phase: Phase, fault: Fault) -> None:
    verdict = judge(trouble(phase, fault))
    assert verdict.cause.startswith(f"{phase}: ")
    assert verdict.reply.code != 421, "our connection to the client does not close"
    if phase in BEFORE_MAIL:  # promise 3: trouble of ours is never a permanent answer
        assert verdict.result is Result.TEMPORARY
        assert verdict.reply.code == 451
    if fault is Fault.PERMANENT and phase not in BEFORE_MAIL:
        assert (verdict.result, verdict.reply.code) == (Result.PERMANENT, 550)
    else:
        assert verdict.reply.is_temporary
    # RFC 1047: only what happens behind the final dot, and is no reply, leaves it open who has the mail
    assert (verdict.result is Result.AMBIGUOUS) is (phase is Phase.DOT and fault not in REPLIES)


def test_every_row_is_needed() -> None:
    assert {id(row_for(trouble(*pair))) for pair in CAN_BE} == set(map(id, TABLE))


@pytest.mark.parametrize(
    ("phase", "code", "fault"),
    [
        (Phase.MAIL, 250, None),
        (Phase.RCPT, 251, None),  # RFC 5321 §4.2.2: will forward
        (Phase.RCPT, 252, None),
        (Phase.DATA, 354, None),
        (Phase.DOT, 250, None),
        (Phase.MAIL, 354, Fault.GARBAGE),
        (Phase.RCPT, 334, Fault.GARBAGE),
        (Phase.DATA, 250, Fault.GARBAGE),
        (Phase.DOT, 354, Fault.GARBAGE),
        (Phase.CONTENT, 250, Fault.GARBAGE),  # nothing was asked
        (Phase.CONTENT, 552, Fault.PERMANENT),
        (Phase.RCPT, 450, Fault.TEMPORARY),
        (Phase.RCPT, 421, Fault.CLOSING),
        (Phase.DOT, 554, Fault.PERMANENT),
    ],
)
def test_what_a_reply_is_at_a_phase(phase: Phase, code: int, fault: Fault | None) -> None:
    found = refusal(phase, HopReply(code, (b"text",)))
    assert (found.fault if found else None) is fault


def test_a_hostile_reply_is_made_harmless() -> None:
    """I4: ANSI, HTML, octets above 127, a lot of it."""
    verdict = judge(Trouble(Phase.RCPT, Fault.PERMANENT, reply=HopReply(550, (b"5.1.1 \x1b[2J<b>\xff" + b"A" * 5000,))))
    assert verdict.reply.text.startswith("?[2J<b>?AAA")
    assert verdict.reply.detail == "1.1"
    for text in (verdict.reply.text, verdict.cause):
        assert len(text) < 600
        assert text.isascii() and text.isprintable()
