"""Whatever a fact holds is some JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from relay.jsonable import to_ascii, to_json
from relay.verdict import DkimResult, Step


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("Grüße\n\x7f\u202e", "Grüße\n\x7f\u202e"),
        ("\ud800", "\ud800"),  # no UTF-8
        (2**64, 2**64),
        ([1.5, True, None], [1.5, True, None]),
        (DkimResult.PASS, "pass"),
        (ip_address("192.0.2.1"), "192.0.2.1"),
        ((Step(1, "a", "b", 0.5),), [[1, "a", "b", 0.5]]),
        ({"\ud800": Step(0, "a")}, {"\ud800": [0, "a", "", 0.0]}),
    ],
)
def test_a_value_can_be_read_back(value: object, read: object) -> None:
    values: Mapping[str, object] = {"value": value}
    assert json.loads(to_json(values)) == {"value": read}
    assert json.loads(to_ascii(values)) == {"value": read}
    assert to_ascii(values).isascii()
