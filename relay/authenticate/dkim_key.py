"""The public key that a signer keeps in the DNS: its record found, read, and held to what we take.

STANDARDS  RFC 6376 §3.6 (key records), §6.1.2 (finding them), RFC 8301 §3.2 (RSA sizes), RFC 8463 §4
           (Ed25519), RFC 8616 §4 (A-labels in names). p= of an RSA key is a SubjectPublicKeyInfo, or the
           bare RSAPublicKey that §3.6.1 names. We differ: a record has MAX_RECORD octets at most.
TRUSTS     nothing: whoever sends mail writes the record. OpenSSL never sees an RSA key of more than 4096
           bits or with an exponent that could make it work for long.
FAILS      Unverifiable, with the RFC 8601 word for the signature and the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from relay.errors import MalformedTags, RelayError
from relay.resolver import DnsTrouble, NoData, NoSuchName, Questions
from relay.tags import base64_value, parse_tags, words
from relay.verdict import DkimResult

MAX_RECORD = 4096  # octets; one with a key of 4096 bits has about 800
MIN_RSA, MAX_RSA = 1024, 4096  # bits: RFC 8301 §3.2 says which sizes a verifier must take
MAX_EXPONENT = 2**32

_PREHASHED = Prehashed(hashes.SHA256())
_PADDING = padding.PKCS1v15()


class Unverifiable(RelayError):
    """A signature that is not going to be a pass. bits: of its key, 0 when there is none."""

    def __init__(self, result: DkimResult, problem: str, bits: int = 0) -> None:
        super().__init__(problem)
        self.result, self.problem, self.bits = result, problem, bits


@dataclass(frozen=True, slots=True)
class Key:
    """algorithm: "rsa" or "ed25519". hashes: what h= allows, None for all. testing, strict: t=y, t=s."""

    algorithm: str
    public: RSAPublicKey | Ed25519PublicKey
    bits: int
    hashes: tuple[str, ...] | None = None
    testing: bool = False
    strict: bool = False

    def signed(self, digest: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's on the SHA-256 `digest`."""
        try:
            if isinstance(self.public, Ed25519PublicKey):
                self.public.verify(signature, digest)  # RFC 8463 §3: the digest is what is signed
            else:
                self.public.verify(signature, digest, _PADDING, _PREHASHED)
        except InvalidSignature:
            return False
        return True


async def find_keys(names: Iterable[str], resolver: Questions) -> dict[str, Key | Unverifiable]:
    """The key, or why there is none, for each DNS name (`brisbane._domainkey.example.com`); all asked at once."""
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:  # as nearly always; a task costs more than an answer out of the cache
        return {unique[0]: await _find_key(unique[0], resolver)}
    return dict(zip(unique, await asyncio.gather(*(_find_key(name, resolver) for name in unique)), strict=True))


async def _find_key(name: str, resolver: Questions) -> Key | Unverifiable:
    try:
        # RFC 6376 §3.6.2.2: with several records the result is undefined. Only the first is tried.
        return parse_key((await resolver.txt(name))[0])
    except (NoSuchName, NoData):
        return Unverifiable(DkimResult.PERMERROR, "there is no key in the DNS")  # RFC 6376 §6.1.2 step 3
    except DnsTrouble as trouble:
        return Unverifiable(DkimResult.TEMPERROR, f"the key could not be asked for: {trouble}")
    except Unverifiable as why:
        return why


@lru_cache(1024)  # with MAX_RECORD at most 4 MB; most mail comes from few signers
def parse_key(record: bytes) -> Key:
    """Read one TXT record. Raises Unverifiable."""
    if len(record) > MAX_RECORD:
        raise _broken(f"it is longer than {MAX_RECORD} octets")
    try:
        tags = parse_tags(record)
    except MalformedTags as error:
        raise _broken(str(error)) from None
    if "v" in tags and (tags["v"] != "DKIM1" or next(iter(tags)) != "v"):  # RFC 6376 §3.6.1
        raise _broken("v= is not DKIM1, or not the first tag")
    if "p" not in tags:
        raise _broken("it has no p=")
    if not tags["p"]:
        raise Unverifiable(DkimResult.PERMERROR, "the key is revoked")
    if not {"*", "email"} & set(words(tags.get("s", "*"))):
        raise Unverifiable(DkimResult.PERMERROR, "the key is not for mail (s=)")
    algorithm = tags.get("k", "rsa")
    flags = words(tags.get("t", ""))
    public, bits = _public(algorithm, tags["p"])
    return Key(
        algorithm,
        public,
        bits,
        hashes=tuple(words(tags["h"])) if "h" in tags else None,
        testing="y" in flags,
        strict="s" in flags,
    )


def _public(algorithm: str, value: str) -> tuple[RSAPublicKey | Ed25519PublicKey, int]:
    try:
        octets = base64_value(value)
    except ValueError:
        raise _broken("p= is not base64") from None
    if algorithm == "ed25519":
        if len(octets) != 32:
            raise _broken("p= has not the 32 octets of an Ed25519 key")
        try:
            return Ed25519PublicKey.from_public_bytes(octets), 256
        except (ValueError, UnsupportedAlgorithm):
            raise _broken("p= is not an Ed25519 key") from None
    if algorithm != "rsa":
        raise _broken("k= names an algorithm that is not known")
    try:
        public = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise _broken("p= is not an RSA key") from None
    if not isinstance(public, RSAPublicKey):
        raise _broken("p= is not an RSA key")
    bits, exponent = public.key_size, public.public_numbers().e
    if not MIN_RSA <= bits <= MAX_RSA:
        raise Unverifiable(DkimResult.POLICY, f"the key has {bits} bits, we take {MIN_RSA} to {MAX_RSA}", bits)
    if exponent > MAX_EXPONENT or exponent % 2 == 0:
        raise Unverifiable(DkimResult.POLICY, "the exponent of the key is even or larger than 2^32", bits)
    return public, bits


def _broken(why: str) -> Unverifiable:
    return Unverifiable(DkimResult.PERMERROR, f"the key record cannot be used: {why}")
