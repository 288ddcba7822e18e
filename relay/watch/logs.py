"""The log: one line a fact to standard error, text or JSON, RFC 3339 times in UTC.

Every value is escaped (`escape.py`), so that one fact stays one line whatever a stranger put into it.
What libraries say through `logging` from WARNING on comes out as facts too.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO

import structlog

from relay.clock import SystemClock
from relay.fact import Fact
from relay.watch.escape import quote

_write = json.JSONEncoder(default=str).encode  # ASCII only: what is not printable is \\u…
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(level: str, format: str, stream: BinaryIO | None = None) -> None:
    """level: debug | info | warning | error. format: text | json. stream: standard error if None."""
    global _logger
    _logger = _make_logger(level, format, stream)
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(old)
    root.addHandler(_FromLibraries())
    root.setLevel(logging.WARNING)
    # aiosmtpd logs commands at INFO and every line of DATA at DEBUG: passwords and bodies.
    logging.getLogger("mail").setLevel(logging.WARNING)


def log(fact: Fact) -> None:
    """Write the fact's line. Never raises: a full disk or a closed pipe behind the log must not stop mail."""
    if LEVELS.get(fact.level, logging.ERROR) < _logger.level:
        return
    try:
        _logger.write(_logger.line(_stamp(_clock.time()), fact).encode())
    except (OSError, ValueError):  # ValueError: the stream is closed
        return


class _FromLibraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, object] = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            values["traceback"] = logging.Formatter().formatException(record.exc_info)
        log(Fact("library.said", "", values, "error" if record.levelno >= logging.ERROR else "warning"))


@dataclass(frozen=True, slots=True)
class _Logger:
    """Of structlog only what writes: its processors and bound loggers cost more than all else of a line."""

    level: int
    line: Callable[[str, Fact], str]
    write: Callable[[bytes], None]


def _make_logger(level: str, format: str, stream: BinaryIO | None) -> _Logger:
    output = structlog.BytesLogger(stream or sys.stderr.buffer)
    return _Logger(LEVELS[level], _json if format == "json" else _text, output.msg)


def _stamp(time: float) -> str:
    """`2026-11-22T05:12:00.123456Z`"""
    second = int(time)
    return f"{_second(second)}.{int((time - second) * 1e6):06}Z"


@lru_cache(1)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _text(time: str, fact: Fact) -> str:
    """`TIME LEVEL EVENT id=… key=value …`; a value that is not one plain word is a JSON string."""
    about = f" id={quote(fact.id)}" if fact.id else ""
    values = "".join([f" {key}={quote(value)}" for key, value in fact.values.items()])
    return f"{time} {fact.level} {fact.event}{about}{values}"


def _json(time: str, fact: Fact) -> str:
    values = {"time": time, "level": fact.level, "event": fact.event, "id": fact.id, **fact.values}
    return _write(values).replace("\x7f", "\\u007f")  # JSON lets DEL stand


_clock = SystemClock()
_logger = _make_logger("info", "text", None)
