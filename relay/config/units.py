"""Durations (`"25s"`, `"5 min"`), sizes (`"25 MiB"`) and numbers of workers (`"auto"`), read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_DURATION = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
_SIZE = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_NUMBER = r"[0-9]{1,18}(\.[0-9]{1,40})?"  # so that no quantity is infinite
_MOST_WORKERS = 256
_TOO_MUCH = 10**18  # octets or seconds; what is printed in the smallest unit still has no more than 18 digits
_QUANTITY = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)\Z")


def parse_duration(text: object) -> float:
    """`"25s"` is 25.0 seconds. Units: ms, s, min, h, d. A bare number is refused: of what unit?"""
    return _parse(text, _DURATION, 'a duration, such as "25s", "5 min" or "1 h"')


def parse_size(text: object) -> int:
    """`"25 MiB"` is 26214400 octets. Units: B, KiB, MiB, GiB, kB, MB, GB."""
    return int(_parse(text, _SIZE, 'a size, such as "25 MiB" or "500 B"'))


def parse_workers(value: object) -> int:
    """A whole number from 1 to 256, of text too (it comes from the environment); 0 is `"auto"`."""
    if value == "auto":
        return 0
    text = str(value) if type(value) in (int, str) else ""
    if text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= _MOST_WORKERS:
        return int(text)
    raise ValueError(f'write "auto" or a number from 1 to {_MOST_WORKERS}')


def print_workers(number: int) -> int | str:
    """`parse_workers` gives `number` back."""
    return number or "auto"


def print_duration(seconds: float) -> str:
    """The duration in its largest whole unit: 300.0 is `"5 min"`. `parse_duration` gives `seconds` back."""
    for unit, worth in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % worth == 0:
            return f"{seconds / worth:.0f} {unit}"
    if 0 < seconds < 1:
        text = f"{_plain(seconds * 1000)}ms"
        # Rounding may cost the last bit; then seconds, which lose nothing.
        if parse_duration(text) == seconds:
            return text
    return f"{_plain(seconds)}s"


def print_size(octets: int) -> str:
    """The size in its largest whole unit: 26214400 is `"25 MiB"`."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets and octets % _SIZE[unit] == 0:
            return f"{octets // _SIZE[unit]} {unit}"
    return f"{octets} B"


def _plain(number: float) -> str:
    """The shortest decimal that reads back as `number`, without exponent or trailing zeros."""
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _parse(text: object, units: Mapping[str, float], wanted: str) -> float:
    found = _QUANTITY.match(text) if isinstance(text, str) else None
    if found is None or found[3] not in units:
        raise ValueError(f"write {wanted}")
    amount = float(found[1]) * units[found[3]]
    if amount >= _TOO_MUCH:
        raise ValueError(f"write {wanted}; this is more than there is")
    return amount


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(print_duration),
    WithJsonSchema({"type": "string", "pattern": rf"^{_NUMBER} ?(ms|s|min|h|d)$"}),
]
Wait = Annotated[Duration, Field(gt=0)]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(print_size),
    WithJsonSchema({"type": "string", "pattern": rf"^{_NUMBER} ?(B|KiB|MiB|GiB|kB|MB|GB)$"}),
]
Workers = Annotated[
    int,
    BeforeValidator(parse_workers),
    PlainSerializer(print_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": _MOST_WORKERS}, {"const": "auto"}]}),
]
