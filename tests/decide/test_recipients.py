"""The recipients of a gateway: what a file of them may hold, and whom it knows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import parse_mailbox
from relay.decide.recipients import MAX_PROBLEMS, Recipients, is_postmaster, read_recipients, refuse_unknown
from relay.errors import ConfigError, MalformedAddress
from relay.reply import NO_SUCH_RECIPIENT

FILE = """\
# our people
ann@ours.org
Bob@OURS.org
  carl@ours.org\t
"dora d"@ours.org
jörg@ours.org

   # two domains that take everything
@all.example
@Bücher.example
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipients"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS = [
    ("ann@ours.org", True),
    ("ANN@Ours.ORG", True),  # lists compare with case folded
    ("bob@ours.org", True),
    ("carl@ours.org", True),
    ('"dora d"@ours.org', True),
    ('"ann"@ours.org', True),  # RFC 5321 §4.1.2: the quotes are no part of the name
    ("jörg@ours.org", True),
    ("eve@ours.org", False),
    ("ann+shop@ours.org", False),  # a part behind "+" is part of the address
    ("ann@sub.ours.org", False),
    ("ann@all.example", True),
    ("ann@sub.all.example", False),
    ("ann@xn--bcher-kva.example", True),  # RFC 5891: the same domain
    ("ann@bücher.example", True),
    ("#@ours.org", False),
]


@pytest.mark.parametrize(("address", "known"), ROWS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_whom_the_file_knows(tmp_path: Path, address: str, known: bool, ends: str) -> None:
    recipients = read_recipients(write(tmp_path, FILE.replace("\n", ends)))
    assert (parse_mailbox(address.encode(), utf8=True) in recipients) is known
    assert len(recipients) == 7


BAD = [
    ("ann", "line 1"),
    ("ann@ours.org\nann@ours.org, bob@ours.org", "line 2"),
    ("ann@ours.org # our Ann", "line 1"),
    ("\n\nann@", "line 3"),
    ("@", "line 1"),
    ("@-x-.org", "line 1"),
    (f"{'a' * 65}@ours.org", "line 1"),  # RFC 5321 §4.5.3.1.1
    (f"ann@{'a' * 64}.org", "line 1"),  # RFC 1035 §2.3.4
    ("postmaster", "line 1"),  # without a domain it is whose?
    ("ann@ours.org\x0bbob@ours.org", "line 1"),  # one line, though Python thinks it is two
]


@pytest.mark.parametrize(("text", "line"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_recipients(path)
    assert [(problem.source, problem.key) for problem in caught.value.problems] == [(str(path), line)]


def test_of_many_bad_lines_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipients(write(tmp_path, "ann\n" * 1000))
    assert [problem.key for problem in caught.value.problems] == [f"line {n}" for n in range(1, MAX_PROBLEMS + 1)]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_recipients(tmp_path / "none")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_recipients(write(tmp_path, b"j\xf6rg@ours.org"))


PARTS = st.text('abcXYZ019_.+-"@# é', max_size=70)


@given(PARTS, PARTS)
def test_every_line_counts_as_the_address_grammar_reads_it(
    tmp_path_factory: pytest.TempPathFactory, a: str, b: str
) -> None:
    line = f"{a}@{b}".strip()
    if line.startswith(("#", "@")):
        return
    path = tmp_path_factory.getbasetemp() / "recipients"
    path.write_text(line)
    try:
        address = parse_mailbox(line.encode(), utf8=True)
    except MalformedAddress:
        with pytest.raises(ConfigError):
            read_recipients(path)
    else:
        recipients = read_recipients(path)
        assert address in recipients
        assert len(recipients) == 1


POSTMASTERS = [
    # recipient, configured, is he the postmaster?
    ("Postmaster", None, True),  # RFC 5321 §4.5.1
    ("postmaster", "ann@ours.org", True),
    ("POSTMASTER@ours.org", None, True),
    ('"postmaster"@ours.org', None, True),
    ("ann@ours.org", "Ann@ours.org", True),
    ("ann@ours.org", None, False),
    ("postmaster-ann@ours.org", "bob@ours.org", False),
]


@pytest.mark.parametrize(("recipient", "configured", "expected"), POSTMASTERS)
def test_the_postmaster_is_always_known(recipient: str, configured: str | None, expected: bool) -> None:
    address = parse_mailbox(recipient.encode(), utf8=True)
    assert is_postmaster(address, configured) is expected
    nobody = Recipients(set())
    assert refuse_unknown(nobody, address, configured) == (None if expected else NO_SUCH_RECIPIENT)


def test_without_a_file_nobody_is_unknown() -> None:
    assert refuse_unknown(None, parse_mailbox(b"eve@ours.org", utf8=False), None) is None


def test_a_large_file_is_read_whole(tmp_path: Path) -> None:
    recipients = read_recipients(write(tmp_path, "".join(f"user{n}@ours.org\n" for n in range(50_000))))
    assert len(recipients) == 50_000
    assert parse_mailbox(b"user49999@ours.org", utf8=False) in recipients
