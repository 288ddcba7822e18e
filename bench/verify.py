"""What verifying one RSA-2048 signature on a mail of 10 KB costs, beside what nobody can save, and beside dkimpy.

`make bench ARGS=verify`. `bare` is OpenSSL's verify of the signature, SHA-256 of header and body, and one pass over
the bytes (the count of line ends). The key is in the resolver's cache; dkimpy gets its record from a function.
`parsed` is what the relay itself pays: it has parsed the message already, and its listener has seen to the line ends.
Of each row the quickest round counts: a busy machine only adds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from hashlib import sha256

import dkim
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from bench.sign import HEADER, LINE
from relay.authenticate.dkim import verify, verify_message
from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import sign
from relay.message import Message
from relay.publish.keys import dns_name, dns_record
from relay.resolver import Resolver
from relay.verdict import DkimVerdict
from tests.support.dns import dns_server

OCTETS = 10_000
COUNT = 100
ROUNDS = 20


def spent(job: Callable[[], object]) -> float:
    """Microseconds a call."""
    start = time.perf_counter()
    for _ in range(COUNT):
        job()
    return 1e6 * (time.perf_counter() - start) / COUNT


async def spent_async(job: Callable[[], Awaitable[list[DkimVerdict]]]) -> float:
    start = time.perf_counter()
    for _ in range(COUNT):
        [verdict] = await job()
        assert verdict.result == "pass", verdict.problem
    return 1e6 * (time.perf_counter() - start) / COUNT


async def print_table() -> None:
    key = SigningKey("example.org", "r", Algorithm.RSA, rsa.generate_private_key(65537, 2048))
    message = sign(HEADER + b"\r\n" + LINE * (OCTETS // len(LINE)), [key])
    record = dns_record(key).encode()
    header, _, body = message.partition(b"\r\n\r\n")
    digest = sha256(header).digest()
    public = key.private.public_key()
    signature = key.private.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))  # type: ignore[union-attr]

    def bare() -> None:
        message.count(b"\r\n")
        sha256(body).digest()
        public.verify(signature, sha256(header).digest(), padding.PKCS1v15(), Prehashed(hashes.SHA256()))  # type: ignore[union-attr,call-arg]

    def by_dkimpy() -> None:
        assert dkim.verify(message, dnsfunc=lambda name, timeout=0: record)

    async with dns_server({dns_name(key): [{"TXT": record.decode()}]}) as server:
        resolver = Resolver([server.nameserver])
        parsed = Message.parse(message)
        rounds = []
        for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for each of them
            ours = await spent_async(lambda: verify(message, resolver))
            inner = await spent_async(lambda: verify_message(parsed, resolver))
            rounds.append((spent(bare), ours, inner, spent(by_dkimpy)))
        await resolver.close()
    floor, ours, inner, theirs = (min(column) for column in zip(*rounds, strict=True))
    print(f"{'':8}{'µs':>9}{'× bare':>9}{'× relay':>9}")
    for name, value in (("bare", floor), ("relay", ours), ("parsed", inner), ("dkimpy", theirs)):
        print(f"{name:8}{value:9.0f}{value / floor:9.1f}{value / ours:9.1f}")


def main() -> None:
    uvloop.run(print_table())
