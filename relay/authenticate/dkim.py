"""Whose DKIM signatures a message carries, and whether they hold.

STANDARDS  RFC 6376 §6 (verification), RFC 8301 (no rsa-sha1, RSA of 1024 bits at least), RFC 8463 (Ed25519),
           RFC 8616 (U-labels), RFC 8601 §2.7.1 (the words of the results).
           We differ: where RFC 6376 §3.5 lets the body go on behind l=, that is `policy` and no pass, for
           anybody may have written what stands there (§8.2).
TRUSTS     nothing. What is cheap comes first: a signature with a broken field, past its date or with
           another body than this one costs no question to the DNS, so that a signer's own broken DNS
           never turns a `fail` into a `temperror`.
FAILS      never: each signature has its verdict. DNS trouble is `temperror` and nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from relay.authenticate.dkim_hash import BodyHash, Header, Wanted, body_hashes
from relay.authenticate.dkim_key import Key, Unverifiable, find_keys
from relay.authenticate.dkim_signature import MessageSignature, a_labels, check_key, dkim_signature, read_tags
from relay.clock import SystemClock
from relay.errors import MalformedMessage
from relay.message import MAX_HEADER, Field, Message
from relay.resolver import Questions
from relay.verdict import DkimResult, DkimVerdict

MAX_SIGNATURES = 5  # that are looked at, from the top; RFC 6376 §8.4 asks for a limit
MAX_SHOWN = 255  # characters of a foreign value in a verdict

_SIGNED = re.compile(rb"^DKIM-Signature[ \t]*:", re.IGNORECASE | re.MULTILINE)


async def verify(message: bytes, resolver: Questions, *, time: float | None = None) -> list[DkimVerdict]:
    """One verdict per DKIM-Signature field, in order of appearance; [] for a message without any.

    message: with CRLF line ends. One that is malformed, or has a bare CR or LF, and a signature has one
    `neutral` verdict. time: seconds since the epoch, now if not given.
    """
    try:
        return await verify_message(parse_strictly(message), resolver, time=time)
    except MalformedMessage as error:
        if not _SIGNED.search(message, 0, MAX_HEADER):
            return []
        return [DkimVerdict(DkimResult.NEUTRAL, problem=str(error))]


async def verify_message(message: Message, resolver: Questions, *, time: float | None = None) -> list[DkimVerdict]:
    """As `verify`, for a message that is parsed already and whose lines end with CRLF only."""
    now = SystemClock().time() if time is None else time
    fields = message.all(b"dkim-signature")
    found = [_Candidate(field, now) for field in fields[:MAX_SIGNATURES]]
    signatures = [one.signature for one in found if one.signature]
    if signatures:
        bodies = await body_hashes(message, {Wanted(one.body_form, one.length) for one in signatures})
        for one in found:
            one.compare_body(bodies)
        keys = await find_keys((one.signature.key_name for one in found if one.signature), resolver)
        header = Header(message.fields)
        for one in found:
            one.check(keys, header)
    late = DkimVerdict(DkimResult.POLICY, problem=f"not looked at: it is not among the first {MAX_SIGNATURES}")
    return [one.verdict() for one in found] + [late] * (len(fields) - len(found))


def parse_strictly(message: bytes) -> Message:
    """The parsed message. Raises MalformedMessage, also for a bare CR or LF: who would hash them as what?"""
    ends = message.count(b"\r\n")
    if message.count(b"\r") != ends or message.count(b"\n") != ends:
        raise MalformedMessage("a bare CR or a bare LF stands in the message")
    return Message.parse(message)


class _Candidate:
    """A signature on its way to a verdict; `signature` is None from the moment that one is certain."""

    def __init__(self, field: Field, time: float) -> None:
        self._tags: Mapping[str, str] = {}
        self._body_matches: bool | None = None
        self._testing = False
        self._result, self._problem, self._bits = DkimResult.PASS, "", 0
        self._key_name: tuple[str, str] | None = None
        self.signature: MessageSignature | None = None
        try:
            self._tags = read_tags(field)
            self.signature = dkim_signature(field, self._tags, time)
            self._key_name = self.signature.domain, self.signature.selector
        except Unverifiable as why:
            self._settle(why.result, why.problem)

    def compare_body(self, bodies: Mapping[Wanted, BodyHash]) -> None:
        """RFC 6376 §6.1.3 step 2."""
        signature = self.signature
        if signature is None:
            return
        digest, size = bodies[Wanted(signature.body_form, signature.length)]
        if signature.length is not None and signature.length > size:  # RFC 6376 §3.5
            self._settle(DkimResult.PERMERROR, "l= is larger than the body")
            return
        self._body_matches = digest == signature.body_hash
        if not self._body_matches:
            self._settle(DkimResult.FAIL, "the body was changed")
        elif signature.length is not None and signature.length < size:
            self._result, self._problem = DkimResult.POLICY, "only a part of the body is signed (l=)"

    def check(self, keys: Mapping[str, Key | Unverifiable], header: Header) -> None:
        """RFC 6376 §6.1.3 step 4."""
        signature = self.signature
        if signature is None:
            return
        key = keys[signature.key_name]
        self._bits = key.bits
        if isinstance(key, Unverifiable):
            self._settle(key.result, key.problem)
            return
        self._testing = key.testing
        try:
            check_key(key, signature)
        except Unverifiable as why:
            self._settle(why.result, why.problem)
            return
        if not key.signed(header.digest(signature), signature.value):
            self._settle(DkimResult.FAIL, "the signature does not match: a signed field was changed, or the key is new")

    def verdict(self) -> DkimVerdict:
        domain, selector = self._key_name or (_shown(self._tags.get(name, "")) for name in "ds")
        return DkimVerdict(
            self._result,
            domain=domain,
            selector=selector,
            algorithm=self._tags.get("a", "")[:MAX_SHOWN],
            key_bits=self._bits,
            identity=self._tags.get("i", domain and f"@{domain}")[:MAX_SHOWN],
            signature="".join(self._tags.get("b", "")[:MAX_SHOWN].split())[:8],
            problem=self._problem,
            body_hash_matches=self._body_matches,
            testing=self._testing,
        )

    def _settle(self, result: DkimResult, problem: str) -> None:
        self._result, self._problem, self.signature = result, problem, None


def _shown(domain: str) -> str:
    try:
        return a_labels(domain[:MAX_SHOWN])
    except ValueError:
        return domain[:MAX_SHOWN]
