"""Authentication-Results: ours written from the verdicts, and those of others that claim to be ours found.

STANDARDS  RFC 8601 §2.2 (syntax), §2.3 (properties), §2.7 (methods), §5 (every field with our authserv-id is
           removed at the border), RFC 6008 (header.b), RFC 8617 §10.1 (arc), RFC 9989 §9.1 (policy.dmarc).
TRUSTS     nothing: who forges a field spells our name so that we overlook it and the reader does not; what a
           verdict quotes of a stranger (names, addresses, selectors) is written as a token, as a quoted string,
           or as `invalid`, and can make no method, no property and no line.
FAILS      to the safe side: a field whose authserv-id cannot be read for certain counts as claimed. It
           proves nothing to anybody, so that nothing is lost with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from relay.address import domain_key
from relay.lexical import Kind, Token, tokens, unfold
from relay.message import Field
from relay.verdict import ArcResult, ArcVerdict, DkimVerdict, DmarcVerdict, IprevVerdict, SpfVerdict, Verdicts

MAX_NAME = 2048  # octets in front of the first ";", folds and comments included
MAX_WORDS = 32  # the same in words; the grammar has two
MAX_TEXT = 255  # characters of a foreign value; what is longer is `invalid`
MAX_REASON = 200  # characters of a reason; what is longer is cut
MAX_FIELD = 8192  # octets of our field; results that do not fit are left out, the last ones first
MAX_SIGNATURES = 10  # whose results are written
LINE = 78  # RFC 5322 §2.1.1

RESULTS = b"Authentication-Results: %s\r\n"  # the field around its value

# What RFC 2045 §5.1 calls a token, and an address or `@domain` made of such (RFC 8601 §2.2, pvalue; §3.5 of
# RFC 6376 for domain-name: labels of letters, digits and hyphens).
_BARE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+\Z|[A-Za-z0-9!#$%&'*+.^_`{|}~-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\Z")
_PRINTABLE = re.compile(r"[ -~]*\Z")


def claims(field: Field, authserv_id: str) -> bool:
    """Whether `field` is an Authentication-Results field that bears our `authserv_id`, however spelled.

    Case, folds, comments, quotes, A-labels or U-labels and a version make no difference (RFC 8601 §2.2).
    """
    if field.name != b"authentication-results":
        return False
    words = _name(field.value)
    # An encoded word (RFC 2047) or what is not UTF-8 has no place in it: who can say how it will be read?
    if not "".join(words) or any("=?" in word or "\ufffd" in word for word in words):
        return True
    # The words together: `mx . example` in the eyes of one that lets white space stand around dots.
    spellings = (words[0], "".join(words), "".join(words[:-1]))
    return domain_key(authserv_id) in {domain_key(spelling.rstrip(".")) for spelling in spellings}


def _name(value: bytes) -> list[str]:
    """The words in front of the first ";" (authserv-id, version); none when they cannot be read."""
    text = unfold(value[:MAX_NAME]).decode("utf-8", "replace")
    words: list[str] = []
    apart = True  # the next text begins a word
    for token in tokens(text):
        if token.kind is Kind.BROKEN or len(words) > MAX_WORDS:
            return []
        if token.text == ";":
            return words
        if token.kind in (Kind.SPACE, Kind.COMMENT):
            apart = True
        elif apart:
            words.append(_unquoted(token))
            apart = False
        else:
            words[-1] += _unquoted(token)
    return words if len(value) <= MAX_NAME else []


def _unquoted(token: Token) -> str:
    return re.sub(r"\\(.)", r"\1", token.text[1:-1]) if token.kind is Kind.QUOTED else token.text


def results_field(verdicts: Verdicts | None, authserv_id: str, *, mail_from: str = "", override: str = "") -> bytes:
    """The whole field, folded, with its CRLF. verdicts: None when nothing was checked.

    mail_from: the reverse-path, without angle brackets; without it the verdict's domain is written.
    override: why the policy of the author's domain was not followed, for dmarc's reason.
    """
    value = results_value(verdicts, authserv_id, mail_from=mail_from, override=override)
    return RESULTS % value


def results_value(verdicts: Verdicts | None, authserv_id: str, *, mail_from: str = "", override: str = "") -> bytes:
    """The value of the field, folded: `mx.example.org;\\r\\n\\tspf=pass smtp.mailfrom=…`."""
    if verdicts is None:
        return f"{encode(authserv_id)}; none".encode()
    text = encode(authserv_id)
    for words in _results(verdicts, mail_from, override):
        result = _folded(words)
        if len(text) + len(result) > MAX_FIELD:
            break
        text += f";\r\n\t{result}"
    return text.encode()


def encode(value: str) -> str:
    """A foreign value, fit for the field: as it is, as a quoted string, or `invalid`."""
    return _encoded(value) if len(value) <= MAX_TEXT else "invalid"


@lru_cache(1024)  # names and addresses come again and again; 1 MB at most
def _encoded(value: str) -> str:
    if not value.isascii():
        value = domain_key(value)
    # An encoded word (RFC 2047) would mean something else to a reader that decodes it.
    if not value or len(value) > MAX_TEXT or not _PRINTABLE.match(value) or "=?" in value:
        return "invalid"
    return value if _BARE.match(value) else _quoted(value)


def _results(verdicts: Verdicts, mail_from: str, override: str) -> Iterator[list[str]]:
    """The words of each result; the most telling first, those a stranger can make many of last."""
    yield _dmarc(verdicts.dmarc, override)
    if verdicts.spf.identity == "mailfrom":
        yield _spf(verdicts.spf, "smtp.mailfrom", mail_from or verdicts.spf.domain)
    yield _spf(verdicts.helo, "smtp.helo", verdicts.helo.domain)
    yield _iprev(verdicts.iprev)
    if verdicts.arc.result is not ArcResult.NONE:
        yield _arc(verdicts.arc, verdicts.iprev)
    if not verdicts.dkim:
        yield ["dkim=none"]
    for signature in verdicts.dkim[:MAX_SIGNATURES]:
        yield _dkim(signature)


def _spf(verdict: SpfVerdict, name: str, value: str) -> list[str]:
    if name == "smtp.mailfrom" and not value.isascii():
        value = value.rpartition("@")[2]  # the local part stays out: a reader without RFC 6532 could not read the field
    return [f"spf={verdict.result}", *_reason(verdict.problem), *_property(name, value)]


def _dkim(verdict: DkimVerdict) -> list[str]:
    """RFC 8601 §2.7.1, RFC 6008."""
    properties = (
        ("header.d", verdict.domain),
        ("header.i", verdict.identity),
        ("header.s", verdict.selector),
        ("header.a", verdict.algorithm),
        ("header.b", verdict.signature[:8]),
    )
    words = [word for name, value in properties for word in _property(name, value)]
    return [f"dkim={verdict.result}", *_reason(verdict.problem), *words]


def _dmarc(verdict: DmarcVerdict, override: str) -> list[str]:
    policy = [f"policy.dmarc={verdict.disposition}"] if verdict.domain else []
    reason = "; ".join(text for text in (verdict.problem, override) if text)
    return [f"dmarc={verdict.result}", *_reason(reason), *_property("header.from", verdict.author_domain), *policy]


def _arc(verdict: ArcVerdict, client: IprevVerdict) -> list[str]:
    oldest = [f"header.oldest-pass={verdict.oldest_pass}"] if verdict.oldest_pass is not None else []
    return [f"arc={verdict.result}", *_reason(verdict.problem), *oldest, *_property("smtp.remote-ip", str(client.ip))]


def _iprev(verdict: IprevVerdict) -> list[str]:
    return [f"iprev={verdict.result}", *_reason(verdict.problem), *_property("policy.iprev", str(verdict.ip))]


def _property(name: str, value: str) -> list[str]:
    return [f"{name}={encode(value)}"] if value else []


def _reason(problem: str) -> list[str]:
    text = "".join(character if " " <= character <= "~" else "?" for character in problem[:MAX_REASON])
    return [f"reason={_quoted(text.replace('=?', '= ?'))}"] if problem else []


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _folded(words: Sequence[str]) -> str:
    """The words on lines of LINE characters where they allow it, the next ones indented."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + len("\t ;") > LINE:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "\r\n\t ".join(lines)
