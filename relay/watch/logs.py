"""The log: one line a fact to standard error, text or JSON, RFC 3339 times in UTC.

Every value is escaped (`escape.py`), so that one fact stays one line whatever a stranger put into it.
What libraries say through `logging` from WARNING on comes out as facts too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from select import PIPE_BUF
from typing import BinaryIO

from relay.clock import SystemClock
from relay.escape import quote, quote_all
from relay.fact import Fact, Recorded
from relay.jsonable import to_ascii, to_json

_LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, format: str, stream: BinaryIO | None = None, worker: int | None = None) -> None:
    """level: one of debug, info, warning, error. format: text or json. stream: standard error if None.

    worker: the number that every line ends with, if it is not None.
    """
    global _logger
    _logger = _make_logger(level, format, stream, worker)
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(old)
    root.addHandler(_FromLibraries())
    root.setLevel(logging.WARNING)
    # aiosmtpd logs commands at INFO and every line of DATA at DEBUG: passwords and bodies.
    logging.getLogger("mail").setLevel(logging.WARNING)


def write(recorded: Sequence[Recorded]) -> None:
    """A line for each fact. Never raises: a full disk or a closed pipe behind the log must not stop mail."""
    unheard, make, worker, stream = _logger.unheard, _logger.line, _logger.worker, _logger.stream
    try:
        lines = [make(_stamp(time), fact, worker) for time, fact in recorded if fact.level not in unheard]
        text = b"".join(lines)
        for piece in (text,) if 0 < len(text) <= PIPE_BUF else _pieces(lines):
            stream.write(piece)
            stream.flush()  # whatever ends this process, the lines are out
    except (OSError, ValueError):  # ValueError: the stream is closed
        return


def log(fact: Fact) -> None:
    """Write one fact's line now."""
    write(((_clock.time(), fact),))


class _FromLibraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, object] = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            values["traceback"] = logging.Formatter().formatException(record.exc_info)
        log(Fact("library.said", "", values, "error" if record.levelno >= logging.ERROR else "warning"))


@dataclass(frozen=True, slots=True)
class _Logger:
    """No library: structlog's write alone took a sixth of a line's time, its processors more than all else of it."""

    unheard: frozenset[str]  # levels
    line: Callable[[str, Fact, int | None], bytes]
    worker: int | None
    stream: BinaryIO


def _make_logger(level: str, format: str, stream: BinaryIO | None, worker: int | None = None) -> _Logger:
    unheard = frozenset(_LEVELS[: _LEVELS.index(level)])
    return _Logger(unheard, _json if format == "json" else _text, worker, stream or sys.stderr.buffer)


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, as many as a pipe takes in one piece, so that no other worker's line comes between."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > PIPE_BUF:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece


def _stamp(time: float) -> str:
    """`2026-11-22T05:12:00.123456Z`"""
    second = int(time)
    return f"{_second(second)}.{str(int((time - second) * 1e6)).zfill(6)}Z"  # half the time of `:06`


@lru_cache(1)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _text(time: str, fact: Fact, worker: int | None) -> bytes:
    """`TIME LEVEL EVENT id=… key=value …`; a value that is not one plain word is a JSON string."""
    id = f" id={quote(fact.id)}" if fact.id else ""
    end = "" if worker is None else f" worker={worker}"
    return f"{time} {fact.level} {fact.event}{id}{quote_all(fact.values)}{end}\n".encode()


def _json(time: str, fact: Fact, worker: int | None) -> bytes:
    values = {"time": time, "level": fact.level, "event": fact.event, "id": fact.id, **fact.values}
    if worker is not None:
        values["worker"] = worker
    line = to_json(values)
    # JSON lets stand what is not printable: DEL, and much beyond ASCII.
    return (line if line.isascii() and b"\x7f" not in line else to_ascii(values).replace(b"\x7f", b"\\u007f")) + b"\n"


_clock = SystemClock()
_logger = _make_logger("info", "text", None)
