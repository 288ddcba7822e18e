"""Whatever octets come as a command, the answer is a command or one clean Reply (R22, I3)."""

from hypothesis import given
from hypothesis import strategies as st

from relay.accept import command
from relay.accept.sasl import Credentials, read_credentials
from relay.address import Address
from relay.reply import Reply

PIECES = [
    b"FROM:",
    b"TO:",
    b"<",
    b">",
    b"a@b.c",
    b" ",
    b"SIZE=",
    b"99",
    b"BODY=8BITMIME",
    b"SMTPUTF8",
    b"AUTH=<>",
    b"RET=FULL",
    b"ENVID=",
    b"NOTIFY=SUCCESS,",
    b"NEVER",
    b"ORCPT=rfc822;",
    b"+0D",
    b"=",
]
OCTETS = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=10).map(b"".join)


def is_clean(answer: Reply) -> bool:
    wire = answer.wire()
    return (
        answer.is_permanent and wire.count(b"\r\n") == 1 and wire.endswith(b"\r\n") and wire[:-2].decode().isprintable()
    )


@given(OCTETS)
def test_lines(line: bytes) -> None:
    parsed = command.parse_line(line)
    if isinstance(parsed, Reply):
        assert is_clean(parsed)
        return
    verb, argument = parsed
    assert verb == verb.upper()
    assert not any(octet < 32 or octet == 127 for octet in argument)


@given(OCTETS, st.booleans(), st.booleans())
def test_mail_and_rcpt(argument: bytes, extended: bool, spaces: bool) -> None:
    mail = command.parse_mail(argument, extended=extended, spaces=spaces, max_size=1000, dsn=True)
    assert is_clean(mail) if isinstance(mail, Reply) else 0 <= mail.size <= 1000
    if isinstance(mail, command.Mail) and mail.reverse_path and not mail.smtputf8:
        assert mail.reverse_path.is_ascii
    recipient = command.parse_rcpt(argument, extended=extended, spaces=spaces, smtputf8=False, dsn=True)
    assert is_clean(recipient) if isinstance(recipient, Reply) else isinstance(recipient[0], Address)


@given(st.binary(max_size=40).filter(bytes.isascii), st.lists(st.binary(max_size=40), min_size=2, max_size=2))
async def test_auth(argument: bytes, answers: list[bytes]) -> None:
    given_answers = iter(answers)

    async def challenge(prompt: bytes) -> bytes:
        return next(given_answers)

    found = await read_credentials(b"LOGIN " + argument, challenge)
    assert isinstance(found, Credentials) or is_clean(found)
