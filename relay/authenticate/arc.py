"""Whether the ARC chain of a message holds, and whether we care.

STANDARDS  RFC 8617 §5.2 (validation; "All errors, including DNS failures, become unrecoverable", §5.2.1).
           We differ: §5.2 step 1 lets a chain have 50 sets, each with keys of its own. One that names more than
           MAX_KEYS keys fails: a stranger's mail shall not buy 50 questions of ours.
TRUSTS     a seal of `trusted_sealers`, and only the newest one: it covers the sets below it, and who wrote
           it has said by cv=pass what he thought of them. A chain that passes proves who handled the
           message and nothing about whether they tell the truth.
FAILS      never: ArcVerdict says `fail`, and why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256

from relay.address import domain_key
from relay.authenticate.arc_chain import SEAL, ArcSet, read_chain, results_text
from relay.authenticate.dkim import parse_strictly
from relay.authenticate.dkim_hash import BodyHash, Header, Wanted, body_hashes, without_value
from relay.authenticate.dkim_key import Key, Unverifiable, find_keys
from relay.authenticate.dkim_signature import (
    MessageSignature,
    Signature,
    check_key,
    check_times,
    message_signature,
    seal_signature,
)
from relay.canonical import relaxed_field
from relay.clock import SystemClock
from relay.errors import MalformedMessage
from relay.message import MAX_HEADER, Message
from relay.resolver import Questions
from relay.verdict import ArcResult, ArcVerdict, DkimResult

MAX_KEYS = 10
_NO_CHAIN = ArcVerdict(ArcResult.NONE)

_SEALED = re.compile(rb"^ARC-(?:Seal|Message-Signature|Authentication-Results)[ \t]*:", re.IGNORECASE | re.MULTILINE)


async def verify(
    message: bytes, resolver: Questions, *, trusted_sealers: Collection[str] = (), time: float | None = None
) -> ArcVerdict:
    """What the message's ARC chain is worth. message: with CRLF line ends; a malformed one that has a chain fails.

    trusted_sealers: domains whose seals we believe. time: seconds since the epoch, now if not given.
    """
    try:
        return await verify_message(parse_strictly(message), resolver, trusted_sealers=trusted_sealers, time=time)
    except MalformedMessage as error:
        if not _SEALED.search(message, 0, MAX_HEADER):
            return _NO_CHAIN
        return ArcVerdict(ArcResult.FAIL, problem=str(error))


async def verify_message(
    message: Message, resolver: Questions, *, trusted_sealers: Collection[str] = (), time: float | None = None
) -> ArcVerdict:
    """As `verify`, for a message that is parsed already and whose lines end with CRLF only."""
    chain = read_chain(message)
    if not chain.highest and not chain.problem:
        return _NO_CHAIN
    seals: list[Signature] = []
    try:
        if chain.problem:
            raise _failed(chain.problem)
        now = SystemClock().time() if time is None else time
        for found in chain.sets:
            seals.append(seal_signature(found.seal, found.seal_tags))
            check_times(found.seal_tags, now)
        oldest_pass = await _validate(message, chain.sets, seals, resolver, now)
    except Unverifiable as why:
        return ArcVerdict(ArcResult.FAIL, tuple(seal.domain for seal in seals), problem=why.problem)
    sealers = tuple(seal.domain for seal in seals)
    trusted = sealers[-1] in {domain_key(sealer) for sealer in trusted_sealers}
    text = results_text(chain.sets[-1].results) if trusted else ""
    return ArcVerdict(ArcResult.PASS, sealers, oldest_pass, trusted=trusted, authentication_results=text)


def seal_digests(sets: Sequence[ArcSet]) -> Iterator[bytes]:
    """What each seal is on, the oldest first (RFC 8617 §5.1.1): all sets up to its own, with its b= empty.

    All together they cost what the newest does.
    """
    below = sha256()
    for found in sets:
        below.update(relaxed_field(found.results.raw) + b"\r\n" + relaxed_field(found.signature.raw) + b"\r\n")
        digest = below.copy()
        digest.update(relaxed_field(without_value(found.seal.raw)))
        yield digest.digest()
        below.update(relaxed_field(found.seal.raw) + b"\r\n")


async def _validate(
    message: Message, sets: Sequence[ArcSet], seals: Sequence[Signature], resolver: Questions, now: float
) -> int:
    """RFC 8617 §5.2 steps 4 to 6: the instance of oldest-pass. Raises Unverifiable when the chain fails."""
    newest = message_signature(sets[-1].signature, sets[-1].signature_tags, now)
    if SEAL in newest.names:  # RFC 8617 §4.1.2
        raise _failed("the newest message signature covers ARC-Seal")
    names = {newest.key_name, *(seal.key_name for seal in seals)}
    if len(names) > MAX_KEYS:
        raise _failed(f"its seals need {len(names)} keys, we look up {MAX_KEYS}")
    signatures = [newest, *_older(sets, names, now)]
    bodies = await body_hashes(message, {Wanted(one.body_form, one.length) for one in signatures})
    if not _covers_body(newest, bodies):
        raise _failed("the body was changed after the newest set, or not all of it is signed")
    keys = await find_keys(names, resolver)
    header = Header(message.fields)
    if problem := _fault(newest, header.digest(newest), keys):
        raise _failed(f"the message signature with i={len(sets)}: {problem}")
    for n, (seal, digest) in reversed(list(enumerate(zip(seals, seal_digests(sets), strict=True), 1))):
        if problem := _fault(seal, digest, keys):
            raise _failed(f"the seal with i={n}: {problem}")
    passed = 1
    for one in signatures[1:]:
        if not _covers_body(one, bodies) or _fault(one, header.digest(one), keys):
            break
        passed += 1
    return 0 if passed == len(sets) else len(sets) + 1 - passed


def _older(sets: Sequence[ArcSet], names: set[str], now: float) -> Iterator[MessageSignature]:
    """The message signatures below the newest, downwards, as far as they can be evaluated without new keys or l=.

    They decide nothing but oldest-pass.
    """
    for found in reversed(sets[:-1]):
        try:
            one = message_signature(found.signature, found.signature_tags, now)
        except Unverifiable:
            return
        if one.length is not None or one.key_name not in names:
            return
        yield one


def _covers_body(signature: MessageSignature, bodies: Mapping[Wanted, BodyHash]) -> bool:
    digest, size = bodies[Wanted(signature.body_form, signature.length)]
    return digest == signature.body_hash and signature.length in (None, size)


def _fault(signature: Signature, digest: bytes, keys: Mapping[str, Key | Unverifiable]) -> str:
    key = keys[signature.key_name]
    if isinstance(key, Unverifiable):
        return key.problem
    try:
        check_key(key, signature)
    except Unverifiable as why:
        return why.problem
    return "" if key.signed(digest, signature.value) else "it does not match"


def _failed(problem: str) -> Unverifiable:
    return Unverifiable(DkimResult.FAIL, problem)
