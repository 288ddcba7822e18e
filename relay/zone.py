"""DNS answered from a file, so that a verdict can be replayed without a network (`--zone FILE`).

The file is a zone file (RFC 1035 §5) with any names in it, under the root: `example.org. IN TXT "…"`.
What it does not hold does not exist. To replay DNS trouble, leave a name out and give it the TXT record
"SERVFAIL" under `_trouble.NAME`.
"""

from __future__ import annotations

from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone

from relay.errors import DnsTrouble
from relay.resolver import Resolver
from relay.resolver_cache import Answer, Question
from relay.resolver_query import read_reply, wire_name

_MAX_ALIASES = 8  # CNAMEs in a row, as resolvers have it
_TROUBLE = "_trouble."


class ZoneFile(Resolver):
    """A Resolver that asks nobody."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError, with the line, for what is no zone file; OSError if it cannot be read."""
        super().__init__()
        try:
            zone = dns.zone.from_text(path.read_text("utf-8"), ".", relativize=False, check_origin=False)
        except dns.exception.DNSException as error:
            raise ValueError(f"{path}: {error}") from None
        self._sets = {
            (name.canonicalize(), records.rdtype): dns.rrset.from_rdata_list(name, records.ttl or 0, list(records))
            for name, records in zone.iterate_rdatasets()
        }
        self._names = {name.canonicalize() for name, _ in self._sets}

    async def ask(self, question: Question, seconds: float | None = None) -> Answer:
        name = wire_name(question.name).canonicalize()
        wanted = dns.rdatatype.from_text(question.kind)
        if (wire_name(_TROUBLE + question.name), dns.rdatatype.TXT) in self._sets:
            return Answer(error=DnsTrouble, text=f"{question.kind} {question.name}: trouble, says the zone file")
        reply = dns.message.make_response(dns.message.make_query(name, wanted))
        for _ in range(_MAX_ALIASES):
            if (found := self._sets.get((name, wanted))) is not None:
                reply.answer.append(found)
                break
            if (alias := self._sets.get((name, dns.rdatatype.CNAME))) is None:
                break
            reply.answer.append(alias)
            name = alias[0].target.canonicalize()
        if not reply.answer and not any(known.is_subdomain(name) for known in self._names):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return read_reply(question, reply, 0.0)
