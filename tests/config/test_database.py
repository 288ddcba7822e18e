"""The url of a PostgreSQL database: what it says, and that no error says it."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.database import Database, SslMode, parse_database

CANARY = "canary-Wm3"
FULL = SslMode.VERIFY_FULL

USABLE = {
    "postgresql://db.example.net/relay": Database((("db.example.net", 5432),), "relay", None, None, FULL),
    "postgres://ann@db:6000/relay": Database((("db", 6000),), "relay", "ann", None, FULL),
    "postgresql://ann:p%40%2F%3A%3F%23x@db/relay": Database((("db", 5432),), "relay", "ann", "p@/:?#x", FULL),
    "postgresql://a%40b:p@db/r%20s": Database((("db", 5432),), "r s", "a@b", "p", FULL),
    "postgresql://one:1,two,[2001:db8::1]:3/q": Database(
        (("one", 1), ("two", 5432), ("2001:db8::1", 3)), "q", None, None, FULL
    ),
    "postgresql://127.0.0.1/q": Database((("127.0.0.1", 5432),), "q", None, None, SslMode.DISABLE),
    "postgresql://localhost,[::1]/q": Database((("localhost", 5432), ("::1", 5432)), "q", None, None, SslMode.DISABLE),
    "postgresql://localhost,db/q": Database((("localhost", 5432), ("db", 5432)), "q", None, None, FULL),
    "postgresql:///q?host=/run/postgresql": Database((("/run/postgresql", 5432),), "q", None, None, SslMode.DISABLE),
    "postgresql://db/q?sslmode=require": Database((("db", 5432),), "q", None, None, SslMode.REQUIRE),
    "postgresql://db/q?sslmode=disable": Database((("db", 5432),), "q", None, None, SslMode.DISABLE),
    "postgresql://db/q?sslrootcert=/a.pem&sslcert=/b.pem&sslkey=/c.pem": Database(
        (("db", 5432),), "q", None, None, FULL, "/a.pem", "/b.pem", "/c.pem"
    ),
}

UNUSABLE = (
    "",
    CANARY,
    f"mysql://ann:{CANARY}@db/q",
    f"postgresql+asyncpg://ann:{CANARY}@db/q",
    f"postgresql://ann:{CANARY}@db",
    f"postgresql://ann:{CANARY}@db/",
    f"postgresql://ann:{CANARY}@/q",
    f"postgresql://ann:{CANARY}/x@db/q",
    f"postgresql://ann:1/{CANARY}@db/q",
    f"postgresql://ann:1?{CANARY}@db/q",
    f"postgresql://ann:1?{CANARY}=1@db/q",
    f"postgresql://ann:{CANARY}#x@db/q",
    f"postgresql://ann:{CANARY}@x@db/q",
    f"postgresql://ann:{CANARY}@db:port/q",
    f"postgresql://ann:{CANARY}@db:0/q",
    f"postgresql://ann:{CANARY}@db:65536/q",
    f"postgresql://ann:{CANARY}@db,/q",
    f"postgresql://ann:{CANARY}@[db/q",
    f"postgresql://ann:{CANARY}@db /q",
    f"postgresql://ann:{CANARY}@db/q\n",
    f"postgresql://ann:{CANARY}@db/q?sslmode=prefer",
    f"postgresql://ann:{CANARY}@db/q?sslmode={CANARY}",
    f"postgresql://ann:{CANARY}@db/q?sslmode=require&sslmode=disable",
    f"postgresql://ann:{CANARY}@db/q?password={CANARY}",
    f"postgresql://ann:{CANARY}@db/q?host=/run/postgresql",
    f"postgresql:///q?host={CANARY}",
)


@pytest.mark.parametrize("url", USABLE)
def test_a_url_says_where_the_database_is(url: str) -> None:
    assert parse_database(url) == USABLE[url]


@pytest.mark.parametrize("url", UNUSABLE)
def test_a_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_database(url)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_database_is_printed_without_its_login() -> None:
    database = parse_database(f"postgresql://ann:{CANARY}@one,[::1]:6/q")
    assert str(database) == "one:5432,[::1]:6/q"
    assert CANARY not in repr(database)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_password_can_stand_in_a_url_escaped(password: str) -> None:
    assert parse_database(f"postgresql://ann:{quote(password, safe='')}@db/q").password == password
