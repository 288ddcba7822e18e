"""One fact is one line, whatever is in it; and the log never stops the mail."""

from __future__ import annotations

import io
import json
import logging
import re
import select
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.fact import Fact
from relay.watch import logs

# RFC 3339 §5.6, in UTC
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("mail").level
    yield
    root.handlers[:], level, mail = before
    root.setLevel(level)
    logging.getLogger("mail").setLevel(mail)
    logs._logger = logs._make_logger("info", "text", io.BytesIO())


def lines(format: str, *facts: Fact, level: str = "debug") -> list[str]:
    stream = io.BytesIO()
    logs.configure(level, format, stream)
    for fact in facts:
        logs.log(fact)
    text = stream.getvalue().decode("utf-8")
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def test_a_line_of_text() -> None:
    values = {"hop": "mailbox", "reply": "250 2.0.0 OK", "elapsed_ms": 12.5, "to": ["a@b.c"], "tls": None}
    (line,) = lines("text", Fact("forward.delivered", "1m80vg2g4exwx61e", values))
    time, _, rest = line.partition(" ")
    assert re.fullmatch(TIME, time)
    assert rest == (
        "info forward.delivered id=1m80vg2g4exwx61e "
        'hop=mailbox reply="250 2.0.0 OK" elapsed_ms=12.5 to=["a@b.c"] tls=null'
    )


def test_a_line_of_json() -> None:
    values = {"hop": "mailbox", "elapsed_ms": 12.5, "to": ["a@b.c", "ü@b.c"], "text": "a\nb"}
    (line,) = lines("json", Fact("forward.delivered", "1m80vg2g4exwx61e", values, "warning"))
    found = json.loads(line)
    assert re.fullmatch(TIME, found.pop("time"))
    assert found == {"level": "warning", "event": "forward.delivered", "id": "1m80vg2g4exwx61e", **values}


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_time_is_now_in_utc(format: str) -> None:
    before = datetime.now(UTC)
    (line,) = lines(format, Fact("app.started"))
    found = datetime.fromisoformat(json.loads(line)["time"] if format == "json" else line.split()[0])
    assert found.utcoffset() == timedelta(0)
    assert before <= found <= datetime.now(UTC)


def test_a_fact_without_id_has_none() -> None:
    (line,) = lines("text", Fact("app.started", "", {"version": "0.1"}))
    assert line.split()[1:] == ["info", "app.started", "version=0.1"]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_facts_below_the_level_are_not_written(level: str, written: list[str]) -> None:
    facts = [Fact("x.y", "", {}, level) for level in ("debug", "info", "warning", "error")]
    assert [line.split()[1] for line in lines("text", *facts, level=level)] == written


# I5: every way that a logged field has been known to break a log
HOSTILE = [
    "a\nb",
    "a\r\n2026-11-22T05:00:00Z info forged.event id=x",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "%s%n%d {0} {event} ${jndi:ldap://x}",
    "\u202egnp.exe\u2066",
    "\u2028\u2029\x85\x0b\x0c\x1c",
    '" hop="forged',
    "\\",
    "\ud800",
    "\x00\x7f",
    "x" * 100_000,
]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_one_event_is_one_line(format: str, text: str) -> None:
    (line,) = lines(
        format, Fact("accept.rejected", "1m80vg2g4exwx61e", {"helo": text, "list": [text], "table": {text: 1}})
    )
    assert line.isprintable()
    assert line.splitlines() == [line]


FOREIGN = st.text(max_size=40) | st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp"]), max_size=10)


@given(st.lists(FOREIGN, max_size=5))
def test_any_text_can_be_read_back(texts: list[str]) -> None:
    fact = Fact("accept.rejected", "1m80vg2g4exwx61e", {f"v{number}": text for number, text in enumerate(texts)})
    (line,) = lines("json", fact)
    assert line.isprintable()
    assert {key: value for key, value in json.loads(line).items() if key[0] == "v"} == fact.values
    (line,) = lines("text", fact)
    assert line.isprintable()
    found = re.findall(r' (v\d)=("(?:[^"\\]|\\.)*"|[^ "]+)', line)
    assert {key: json.loads(value) if value[0] == '"' else value for key, value in found} == fact.values


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_is_a_field(format: str) -> None:
    (line,) = lines(
        format, Fact("pipeline.trouble", "", {"traceback": 'Traceback:\n  File "x", line 1\nE: y\n'}, "error")
    )
    assert "Traceback:\\n  File" in line


@pytest.mark.parametrize("format", ["text", "json"])
def test_values_may_be_named_as_the_logger_names_its_own(format: str) -> None:
    (line,) = lines(format, Fact("a.b", "", {"fact": 1, "self": 2, "method_name": 3}))
    assert "a.b" in line
    assert all(name in line for name in ("fact", "self", "method_name"))


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_is_no_json_is_written_as_text(format: str) -> None:
    (line,) = lines(format, Fact("a.b", "", {"ip": object}))
    assert "class 'object'" in line


class Broken(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_behind_the_log_stops_nothing() -> None:
    logs.configure("info", "text", Broken())
    logs.log(Fact("a.b"))


class Pieces(io.BytesIO):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        return len(data)


def test_lines_go_out_together_but_no_more_than_a_pipe_takes_in_one_piece() -> None:
    stream = Pieces()
    logs.configure("info", "text", stream)
    long, short = {"text": "x" * 5000}, {"text": "x" * 1000}
    logs.write([(0.0, Fact("a.b", "", {"n": n})) for n in range(3)])
    logs.write([(0.0, Fact("a.b", "", values)) for values in (short, long, short, short, short, short, short)])
    assert [piece.count(b"\n") for piece in stream.pieces] == [3, 1, 1, 3, 2]
    assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1 for piece in stream.pieces)
    assert all(piece.endswith(b"\n") for piece in stream.pieces)


def test_a_line_has_the_time_of_its_fact() -> None:
    stream = io.BytesIO()
    logs.configure("info", "text", stream)
    logs.write([(1_790_000_000.25, Fact("a.b"))])
    assert stream.getvalue() == b"2026-09-21T14:13:20.250000Z info a.b\n"


def test_a_closed_log_stops_nothing() -> None:
    stream = io.BytesIO()
    logs.configure("info", "text", stream)
    stream.close()
    logs.log(Fact("a.b"))


def test_what_libraries_say_is_a_fact_too() -> None:
    stream = io.BytesIO()
    logs.configure("info", "json", stream)
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved\n%s", "\x1b[31m")
    logging.getLogger("asyncio").info("not worth a line")
    (line,) = stream.getvalue().decode().splitlines()
    found = json.loads(line)
    assert (found["level"], found["event"], found["logger"]) == ("error", "library.said", "asyncio")
    assert found["text"] == "Task exception was never retrieved\n\x1b[31m"
    assert "ValueError: bad\nthing" in found["traceback"]


def test_aiosmtpd_tells_neither_commands_nor_content() -> None:
    """I12: it logs commands at INFO and every line of DATA at DEBUG."""
    stream = io.BytesIO()
    logs.configure("debug", "text", stream)
    logger = logging.getLogger("mail.log")
    assert not logger.isEnabledFor(logging.INFO)
    logger.info("AUTH PLAIN c2VjcmV0")
    logger.debug("DATA readline: secret")
    assert stream.getvalue() == b""


def test_a_second_configure_replaces_the_first() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    logs.configure("info", "text", first)
    logs.configure("info", "text", second)
    logging.getLogger("x").warning("once")
    assert first.getvalue() == b""
    assert second.getvalue().count(b"\n") == 1
