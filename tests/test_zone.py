"""DNS out of a file."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from relay.errors import DnsTrouble, NoData, NoSuchName
from relay.zone import ZoneFile

ZONE = """
$TTL 60
example.org.            IN TXT   "v=spf1 " "include:_spf.example.net -all"
example.org.            IN MX    10 mx.example.org.
mx.example.org.         IN A     192.0.2.1
www.example.org.        IN CNAME mx.example.org.
lost.example.org.       IN CNAME nowhere.example.org.
1.2.0.192.in-addr.arpa. IN PTR   mx.example.org.
_trouble.broken.example.org. IN TXT "SERVFAIL"
"""


@pytest.fixture
def zone(tmp_path: Path) -> ZoneFile:
    path = tmp_path / "zone"
    path.write_text(ZONE)
    return ZoneFile(path)


async def test_what_the_file_holds_is_answered(zone: ZoneFile) -> None:
    assert await zone.txt("EXAMPLE.org") == [b"v=spf1 include:_spf.example.net -all"]
    assert await zone.mx("example.org.") == [(10, "mx.example.org")]
    assert await zone.a("www.example.org") == [IPv4Address("192.0.2.1")]
    assert await zone.ptr(IPv4Address("192.0.2.1")) == ["mx.example.org"]


MISSING = [
    ("none.example.org", NoSuchName),
    ("mx.example.org", NoData),
    ("0.192.in-addr.arpa", NoData),  # an empty non-terminal exists (RFC 8020)
    ("lost.example.org", NoData),
    ("broken.example.org", DnsTrouble),
]


@pytest.mark.parametrize(("name", "error"), MISSING)
async def test_what_it_does_not_hold_is_absent(zone: ZoneFile, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await zone.txt(name)


async def test_questions_are_counted_as_with_a_server(zone: ZoneFile) -> None:
    view = zone.budget(queries=1)
    await view.txt("example.org")
    with pytest.raises(DnsTrouble, match="budget"):
        await view.mx("example.org")
    assert [step.what for step in view.steps] == ["TXT example.org", "MX example.org"]


def test_a_file_that_is_no_zone_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    path.write_text("example.org. IN A not-an-address\n")
    with pytest.raises(ValueError, match="zone"):
        ZoneFile(path)
