"""A listener promises what every hop behind it takes."""

import pytest

from relay.capabilities import EVERYTHING, Capabilities, common

ALL = Capabilities(0, eight_bit=True, smtputf8=True, dsn=True)
OLD = Capabilities(1000)
ROWS = [
    ([], EVERYTHING),
    ([ALL], ALL),
    ([ALL, OLD], OLD),
    ([Capabilities(500, eight_bit=True), ALL], Capabilities(500, eight_bit=True)),
    ([Capabilities(500), Capabilities(700)], Capabilities(500)),
    ([Capabilities(0), Capabilities(700)], Capabilities(700)),  # RFC 1870 §6.1: 0 is no fixed maximum
]


@pytest.mark.parametrize(("hops", "taken"), ROWS)
def test_the_least_of_all_is_promised(hops: list[Capabilities], taken: Capabilities) -> None:
    assert common(hops) == taken
