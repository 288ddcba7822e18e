"""An ARC set put on a message that is passed on: what we found, signed, for who comes next.

The IETF is about to declare ARC historic; nothing here runs unless the configuration asks for it.

STANDARDS  RFC 8617 §5.1 (sealing), §5.1.1 (what a seal is on), §5.1.2 (chains that fail).
TRUSTS     the verdicts, which are ours: cv= is what we found, never what a field of the message says, and the
           results are written anew from the verdicts, so that no forged one can be sealed.
FAILS      `seal`: MalformedMessage. A chain that nobody may add to leaves the message as it is.
"""

from __future__ import annotations

from relay.authenticate.arc import seal_digests
from relay.authenticate.arc_chain import MAX_SETS, ArcSet, Chain, read_chain
from relay.authenticate.dkim import parse_strictly
from relay.clock import SystemClock
from relay.edit.headers import folded
from relay.edit.key import SigningKey
from relay.edit.results import results_value
from relay.edit.signature import message_signature, signature_value
from relay.message import Field, Message
from relay.verdict import ArcResult, Verdicts


def seal(message: bytes, key: SigningKey, verdicts: Verdicts, authserv_id: str, *, time: float | None = None) -> bytes:
    """`message` with one more ARC set on top, or as it is when nobody may add to its chain.

    message: with CRLF line ends, and as it will leave: nothing below a seal may change. verdicts: what we found
    in it as it came. time: for t=, seconds since the epoch; now if not given. Raises MalformedMessage.
    """
    now = SystemClock().time() if time is None else time
    results = results_value(verdicts, authserv_id)
    return b"".join(seal_fields(parse_strictly(message), key, verdicts.arc.result, results, now)) + message


def seal_fields(message: Message, key: SigningKey, arc: ArcResult, results: bytes, time: float) -> list[bytes]:
    """The fields of a new set, the topmost first; [] when the chain is at its end (RFC 8617 §5.1 step 2, §4.2.1).

    arc: what we found the chain to be. results: the value of our Authentication-Results field, as it stands.
    """
    chain = read_chain(message)
    if chain.closed or chain.highest >= MAX_SETS:
        return []
    instance, status = chain.highest + 1, _status(chain, arc)
    added = b"ARC-Authentication-Results: i=%d; " % instance + results + b"\r\n"
    signature = message_signature(message, key, time, instance)
    tags = (f"i={instance};", f"a={key.algorithm};", f"cv={status};", f"d={key.domain};", f"s={key.selector};")
    unsigned = folded("ARC-Seal", *tags, f"t={int(time)};") + b"\tb="
    newest = ArcSet(_field(added), _field(signature), _field(unsigned + b"\r\n"), {}, {})
    # RFC 8617 §5.1.2: a seal on a chain that failed is on its own set alone.
    *_, digest = seal_digests([*(chain.sets if status == "pass" else ()), newest])
    return [unsigned + signature_value(key, digest), signature, added]


def _status(chain: Chain, arc: ArcResult) -> str:
    """cv= of the new seal. A verdict that cannot be this message's is no pass."""
    if not chain.highest and not chain.problem:
        return "none"
    return "pass" if arc is ArcResult.PASS and not chain.problem else "fail"


def _field(raw: bytes) -> Field:
    return Message.parse(raw).fields[0]
