"""Mail made to cost: what it costs us is counted, and grows with its size and no faster (R21, R22)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.authenticate import arc, dkim, dkim_hash, dkim_key
from relay.authenticate.dkim_hash import Header, without_value
from relay.authenticate.dkim_key import Unverifiable, parse_key
from relay.authenticate.dkim_signature import dkim_signature, read_tags
from relay.errors import NoSuchName
from relay.message import Field, Message
from relay.verdict import ArcResult, DkimResult
from tests.support.dkim_signer import arc_sealed, dkim_signed, public_record, record, rsa_key

NOW = 1_790_000_000
HEADER = b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: a word\r\n"


class Keys:
    """A resolver that has one record for every name, and counts the questions."""

    def __init__(self, text: str = "") -> None:
        self.text = (text or record(rsa_key())).encode()
        self.asked: list[str] = []

    async def txt(self, name: str) -> list[bytes]:
        self.asked.append(name)
        if not self.text:
            raise NoSuchName
        return [self.text]


async def results(message: bytes, keys: Keys) -> list[str]:
    return [str(one.result) for one in await dkim.verify(message, keys, time=NOW)]  # type: ignore[arg-type]


class Counted:
    """SHA-256 that counts the octets it is given."""

    octets = 0

    def __init__(self) -> None:
        self._hash = sha256()

    def update(self, piece: bytes) -> None:
        Counted.octets += len(piece)
        self._hash.update(piece)

    def digest(self) -> bytes:
        return self._hash.digest()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many octets were hashed since the last call."""
    monkeypatch.setattr(dkim_hash, "sha256", Counted)
    Counted.octets = 0

    def count() -> int:
        found, Counted.octets = Counted.octets, 0
        return found

    return count


async def test_a_thousand_signatures() -> None:
    field = dkim_signed(HEADER + b"\r\n").partition(b"From:")[0]
    keys = Keys("v=DKIM1; p=")
    broken = b"DKIM-Signature: v=1; a=rsa-sha256; d=a.b; s=x\r\n"
    found = await results(broken * 900 + HEADER + b"\r\n", keys)
    assert found == ["permerror"] * 5 + ["policy"] * 895
    assert keys.asked == []
    signed = b"".join(field.replace(b"s=r;", b"s=r%d;" % n) for n in range(500)) + HEADER + b"\r\n"
    assert set(await results(signed, keys)) == {"permerror", "policy"}
    assert len(keys.asked) == 5


async def test_a_hundred_thousand_fields() -> None:
    keys = Keys()
    assert await results(dkim_signed(HEADER + b"X: y\r\n" * 100_000 + b"\r\n"), keys) == ["neutral"]
    assert keys.asked == []


async def test_the_body_is_hashed_once_for_all_signatures(hashed: Callable[[], int]) -> None:
    body = b"a line of it\r\n" * 10_000
    message = HEADER + b"\r\n" + body
    one, five = dkim_signed(message), message
    for n in range(5):
        five = dkim_signed(five, {"s": f"r{n}"})
    assert await results(one, Keys()) == ["pass"]
    cost = hashed()
    assert await results(five, Keys()) == ["pass"] * 5
    assert len(body) <= cost <= hashed() < cost + 20 * len(five[: -len(body)])


async def test_each_signature_reads_a_field_once_however_often_it_names_it(hashed: Callable[[], int]) -> None:
    def cost(names: int) -> int:
        field = Field(
            b"dkim-signature",
            b"DKIM-Signature: v=1; a=rsa-sha256; d=a.b; s=x; bh=%s; b=YQ==; h=from%s\r\n"
            % (b"A" * 43 + b"=", b":subject" * names),
        )
        message = Message.parse(HEADER + b"Subject: b\r\n" * names + b"\r\n")
        Header(message.fields).digest(dkim_signature(field, read_tags(field), NOW))
        return hashed()

    assert 0 < cost(800) < 6 * cost(200)


@pytest.mark.parametrize("line", [b" " * 998 + b"\r\n", b"\r\n", b" \t" * 499 + b"x\r\n", b" \r\n"])
@pytest.mark.parametrize("form", ["relaxed/relaxed", "simple/simple"])
async def test_bodies_of_space_pass_and_are_never_copied_whole(line: bytes, form: str) -> None:
    body = line * (8 * 1024 * 1024 // len(line)) + b"end\r\n"
    message = Message.parse(HEADER + b"\r\n" + body)
    # What the canonical forms yield is tests/test_canonical.py's; here, what is held while they do.
    tracemalloc.start()
    forms = {dkim_hash.Wanted(dkim_hash.Form(form.partition("/")[0]), length) for length in (None, 7, 10**9)}
    found = await dkim_hash.body_hashes(message, forms)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 3
    assert peak < 3 * 1024 * 1024


@pytest.mark.parametrize(
    "text", [public_record(16384), public_record(8192, 2**512 + 75), public_record(2048, 2**2000 + 1)]
)
async def test_openssl_never_sees_a_key_that_takes_long(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def never(*args: object) -> bool:
        raise AssertionError("the key was used")

    monkeypatch.setattr(dkim_key.Key, "signed", never)
    parse_key.cache_clear()
    assert (await results(dkim_signed(HEADER + b"\r\n"), Keys(text)))[0] in ("policy", "permerror")


@pytest.mark.parametrize(
    "tags",
    [
        {"h": "from" + ":x" * 100_000},
        {"zz": " " * 200_000},
        {"h": "from" + " " * 200_000 + ":to"},
        {"h": "from" + ":" * 100_000},
        {"d": "a." * 100_000 + "example.org"},
        {"d": "é" * 50_000 + ".example.org"},
        {"s": "-" * 200_000},
        {"i": "a@" * 100_000 + "example.org"},
        {"l": "9" * 200_000},
        {"x": "9" * 200_000},
        {"bh": "A" * 200_000},
        {"q": "dns/txt:" * 20_000},
    ],
)
async def test_huge_tags(tags: dict[str, str]) -> None:
    [found] = await dkim.verify(dkim_signed(HEADER + b"\r\n", tags), Keys(), time=NOW)  # type: ignore[arg-type]
    assert found.result in ("pass", "permerror")
    assert max(map(len, (found.domain, found.selector, found.identity, found.algorithm, found.problem))) <= 255


async def test_ten_thousand_tags_and_folds() -> None:
    signed = dkim_signed(HEADER + b"\r\n", {f"t{n}": "" for n in range(10_000)})
    assert await results(signed, Keys()) == ["pass"]
    folded = signed.replace(b"; ", b";\r\n\t", 5000)
    assert await results(folded, Keys()) == ["pass"]


async def test_fifty_sets_cost_ten_questions_at_most(hashed: Callable[[], int]) -> None:
    message = HEADER + b"\r\nhello\r\n"
    for n in range(1, 51):
        message = arc_sealed(message, n, seal={"s": f"s{n}"}, signature={"s": f"s{n}", "h": "from:to:subject"})
    keys = Keys()
    found = await arc.verify(message, keys, time=NOW)  # type: ignore[arg-type]
    assert (found.result, keys.asked) == (ArcResult.FAIL, [])


async def test_the_seals_cost_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Copied(Counted):
        def copy(self) -> Counted:
            found = Copied()
            found._hash = self._hash.copy()
            return found

    monkeypatch.setattr(arc, "sha256", Copied)

    async def cost(count: int) -> int:
        message = HEADER + b"\r\nhello\r\n"
        for n in range(1, count + 1):
            message = arc_sealed(message, n)
        Counted.octets = 0
        found = await arc.verify(message, Keys(), time=NOW)  # type: ignore[arg-type]
        assert found.result == "pass"
        return Counted.octets

    assert await cost(40) < 6 * await cost(10)


RECORD_PARTS = [b"v=DKIM1", b"k=rsa", b"k=ed25519", b"p=", b"p=AAAA", record(rsa_key()).partition("; ")[2].encode(),
    b"h=sha256", b"s=email", b"t=y:s", b"; ", b";", b"=", b" ", b"\x00", b"\xff", b"n=x"]  # fmt: skip


@settings(max_examples=1000)
@given(st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(RECORD_PARTS)).map(b"; ".join)))
def test_any_key_record_is_a_key_or_a_reason(text: bytes) -> None:
    try:
        found = parse_key(text)
    except Unverifiable as why:
        assert why.result in (DkimResult.PERMERROR, DkimResult.POLICY)
        assert why.problem
    else:
        assert found.bits in (256, 2048)


VALUES = st.sampled_from(["", "1", "from", "from:to", "example.org", "rsa-sha256", "simple", "relaxed/simple", "@", ":",
    "a" * 300, "AAAA", "bücher.example", "a@b.c", "%{i}", "0", "99999999999", "\u200d", "YQ=="])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["v", "a", "b", "bh", "c", "d", "h", "i", "l", "q", "s", "t", "x", "z"]), VALUES)
)
async def test_any_signature_has_a_verdict(tags: dict[str, str]) -> None:
    field = "DKIM-Signature: " + "; ".join(f"{name}={value}" for name, value in tags.items()) + "\r\n"
    assert await results(field.encode() + HEADER + b"\r\n", Keys()) != ["pass"]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
async def test_any_bytes_have_a_verdict(value: bytes, rest: bytes) -> None:
    for name in (b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"):
        message = name + b":" + value + b"\r\n" + HEADER + b"\r\n" + rest
        assert "pass" not in await results(message, Keys())
        assert (await arc.verify(message, Keys(), time=NOW)).result != "pass"  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([b"b", b"bh", b"=", b";", b" ", b"\r\n\t", b"A", b"v=1", b":"])).map(b"".join))
def test_what_is_taken_out_of_a_signature_is_the_value_of_b(value: bytes) -> None:
    raw = b"DKIM-Signature:" + value + b"\r\n"
    kept = without_value(raw)
    assert kept.startswith(b"DKIM-Signature:")
    names = [spec.partition(b"=")[0].strip() for spec in kept.partition(b":")[2].split(b";")]
    assert names == [spec.partition(b"=")[0].strip() for spec in raw.partition(b":")[2].split(b";")]
    assert all(
        spec.partition(b"=")[2] == b""
        for spec in kept.partition(b":")[2].split(b";")
        if spec.partition(b"=")[0].strip() == b"b"
    )
