"""DKIM and ARC fields as a test wants them, broken ones too: signed for true over whatever their tags say.

Canonical forms are dkimpy's, keys and signatures OpenSSL's: nothing of the relay is in here.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha1, sha256

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from dkim.canonicalization import CanonicalizationPolicy, Relaxed

PrivateKey = RSAPrivateKey | Ed25519PrivateKey
TAGS = {
    "v": "1",
    "a": "rsa-sha256",
    "c": "relaxed/relaxed",
    "d": "example.org",
    "s": "r",
    "h": "from:to:subject:date",
}


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> RSAPrivateKey:
    """The same key each time it is asked for."""
    return rsa.generate_private_key(exponent, bits)


@cache
def ed25519_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def record(key: PrivateKey, tags: str = "v=DKIM1; ") -> str:
    """The key record, with `tags` in front of k= and p=."""
    public = key.public_key()
    if isinstance(key, RSAPrivateKey):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return f"{tags}k=rsa; p={b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()}"
    return f"{tags}k=ed25519; p={b64encode(public.public_bytes_raw()).decode()}"


def public_record(bits: int, exponent: int = 65537) -> str:
    """The record of an RSA key of any size, which nobody can sign with."""
    public = rsa.RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key()
    octets = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; p={b64encode(octets).decode()}"


def dkim_signed(
    message: bytes, tags: Mapping[str, str | None] | None = None, key: PrivateKey | None = None, *, sha: str = "sha256"
) -> bytes:
    """`message` with a DKIM-Signature on top. tags: other than TAGS; None leaves one out. bh= can be given too."""
    return _field("DKIM-Signature", message, {**TAGS, **(tags or {})}, key or rsa_key(), sha) + message


def arc_sealed(
    message: bytes,
    instance: int = 1,
    *,
    cv: str | None = None,
    results: str = "mx.example.org; none",
    signature: Mapping[str, str | None] | None = None,
    seal: Mapping[str, str | None] | None = None,
    key: PrivateKey | None = None,
) -> bytes:
    """`message` with one more ARC set on top. cv: "none" for the first, else "pass", unless given."""
    key = key or rsa_key()
    aar = f"ARC-Authentication-Results: i={instance}; {results}\r\n".encode()
    ams = _field(
        "ARC-Message-Signature", message, {"i": str(instance), **TAGS, "v": None, **(signature or {})}, key, "sha256"
    )
    tags = {"i": str(instance), "a": "rsa-sha256", "cv": cv or ("none" if instance == 1 else "pass")}
    tags |= {"d": "example.org", "s": "r", **(seal or {})}
    unsigned = _unsigned("ARC-Seal", tags)
    below = []
    for number in range(1, instance):
        for name in ("ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"):
            below += [raw for raw in fields(message, name) if re.search(rf"[:;\s]i={number};".encode(), raw)]
    if tags["cv"] == "fail":
        below = []
    covered = b"".join(_relaxed(raw) + b"\r\n" for raw in [*below, aar, ams]) + _relaxed(unsigned)
    return unsigned + _value(key, covered, "sha256") + b"\r\n" + ams + aar + message


def fields(message: bytes, name: str) -> list[bytes]:
    """The fields called `name`, from the top, each with its CRLF."""
    header = message.partition(b"\r\n\r\n")[0] + b"\r\n"
    found = re.findall(rb"[^\r\n:]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header)
    return [raw for raw in found if raw.partition(b":")[0].strip().lower() == name.lower().encode()]


def _field(name: str, message: bytes, tags: Mapping[str, str | None], key: PrivateKey, sha: str) -> bytes:
    forms = tags.get("c") or "simple/simple"
    known = re.fullmatch("(simple|relaxed)(/(simple|relaxed))?", forms)
    policy = CanonicalizationPolicy.from_c_value((forms if known else "relaxed/relaxed").encode())
    body = policy.canonicalize_body(message.partition(b"\r\n\r\n")[2])
    if re.fullmatch("[0-9]{1,80}", tags.get("l") or ""):
        body = body[: int(tags["l"] or 0)]
    digest = b64encode({"sha1": sha1, "sha256": sha256}[sha](body).digest()).decode()
    unsigned = _unsigned(name, {"bh": digest, **tags})
    covered = []
    left: dict[str, list[bytes]] = {}
    for wanted in (tags.get("h") or "").split(":"):
        named = left.setdefault(wanted.strip().lower(), fields(message, wanted.strip()))
        if named:
            covered.append(named.pop())
    form = [(raw.partition(b":")[0], raw.partition(b":")[2]) for raw in [*covered, unsigned]]
    formed = b"".join(name + b":" + value for name, value in policy.canonicalize_headers(form))
    return unsigned + _value(key, formed.removesuffix(b"\r\n"), sha) + b"\r\n"


def _unsigned(name: str, tags: Mapping[str, str | None]) -> bytes:
    """Up to and with `b=`."""
    given = "; ".join(f"{tag}={value}" for tag, value in tags.items() if value is not None and tag != "b")
    return f"{name}: {given}; b=".encode()


def _relaxed(raw: bytes) -> bytes:
    name, _, value = raw.partition(b":")
    [(name, value)] = Relaxed.canonicalize_headers([(name, value)])
    return name + b":" + value.removesuffix(b"\r\n")


def _value(key: PrivateKey, covered: bytes, sha: str) -> bytes:
    if isinstance(key, Ed25519PrivateKey):
        return b64encode(key.sign(sha256(covered).digest()))
    algorithm = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}[sha]
    return b64encode(key.sign(covered, padding.PKCS1v15(), algorithm))
