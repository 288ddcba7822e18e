"""The log: one line a fact to standard error, text or JSON, RFC 3339 times in UTC.

Every value is escaped (`escape.py`), so that one fact stays one line whatever a stranger put into it.
What libraries say through `logging` from WARNING on comes out as facts too.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import BinaryIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

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
    try:
        _logger.log(LEVELS.get(fact.level, logging.ERROR), fact.event, fact=fact)
    except (OSError, ValueError):  # ValueError: the stream is closed
        return


class _FromLibraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, object] = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            values["traceback"] = logging.Formatter().formatException(record.exc_info)
        log(Fact("library.said", "", values, "error" if record.levelno >= logging.ERROR else "warning"))


def _make_logger(level: str, format: str, stream: BinaryIO | None) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(stream or sys.stderr.buffer),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _json if format == "json" else _text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    ).bind()  # once, not at each line
    return logger


def _text(logger: WrappedLogger, name: str, line: EventDict) -> bytes:
    """`TIME LEVEL EVENT id=… key=value …`; a value that is not one plain word is a JSON string."""
    fact: Fact = line["fact"]
    parts = [line["time"], fact.level, fact.event]
    if fact.id:
        parts.append(f"id={quote(fact.id)}")
    for key, value in fact.values.items():
        parts.append(f"{key}={quote(value)}")
    return " ".join(parts).encode()


def _json(logger: WrappedLogger, name: str, line: EventDict) -> bytes:
    fact: Fact = line["fact"]
    values = {"time": line["time"], "level": fact.level, "event": fact.event, "id": fact.id, **fact.values}
    return _write(values).replace("\x7f", "\\u007f").encode()  # JSON lets DEL stand


_logger = _make_logger("info", "text", None)
