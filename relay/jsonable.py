"""A fact's values as JSON, for the journal and the log."""

from __future__ import annotations

import json

import orjson

_write = json.JSONEncoder(default=str).encode


def to_json(values: object) -> bytes:
    """UTF-8 on one line. What JSON has no word for is written as its `str`."""
    try:
        return orjson.dumps(values, _known)
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        return to_ascii(values)


def to_ascii(values: object) -> bytes:
    """All beyond ASCII as `\\uXXXX`. It takes ten times as long."""
    return _write(values).encode()


def _known(value: object) -> object:
    """What stands for a value that orjson does not know; a named tuple is one."""
    return [*value] if isinstance(value, tuple) else str(value)
