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
from relay.verdict import ArcResult, Verdicts

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
    for result in _results(verdicts, mail_from, override):
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


def _results(verdicts: Verdicts, mail_from: str, override: str) -> Iterator[str]:
    """The results; the most telling first, those a stranger can make many of last."""
    spf, helo, client, dmarc, arc = verdicts.spf, verdicts.helo, verdicts.iprev, verdicts.dmarc, verdicts.arc
    policy = dmarc.disposition if dmarc.domain else ""
    reason = "; ".join(text for text in (dmarc.problem, override) if text)
    yield _known("dmarc", dmarc.result, reason, ("header.from", dmarc.author_domain), ("policy.dmarc", policy))
    if spf.identity == "mailfrom":
        sender = mail_from or spf.domain
        if not sender.isascii():
            # The local part stays out: a reader without RFC 6532 could not read the field.
            sender = sender.rpartition("@")[2]
        yield _known("spf", spf.result, spf.problem, ("smtp.mailfrom", sender))
    yield _known("spf", helo.result, helo.problem, ("smtp.helo", helo.domain))
    yield _known("iprev", client.result, client.problem, ("policy.iprev", str(client.ip)))
    if arc.result is not ArcResult.NONE:
        oldest = "" if arc.oldest_pass is None else str(arc.oldest_pass)
        properties = ("header.oldest-pass", oldest), ("smtp.remote-ip", str(client.ip))
        yield _result("arc", arc.result, arc.problem, *properties)
    if not verdicts.dkim:
        yield "dkim=none"
    for one in verdicts.dkim[:MAX_SIGNATURES]:  # RFC 8601 §2.7.1, RFC 6008
        signer = ("header.d", one.domain), ("header.i", one.identity), ("header.s", one.selector)
        signature = ("header.a", one.algorithm), ("header.b", one.signature[:8])
        yield _result("dkim", one.result, one.problem, *signer, *signature)


def _result(method: str, result: str, problem: str, *properties: tuple[str, str]) -> str:
    """`method=result` and so on, folded. properties: names and foreign values; one without a value is left out."""
    words = [f"{name}={encode(value)}" for name, value in properties if value]
    return _folded([f"{method}={result}", *_reason(problem), *words])


_known = lru_cache(1024)(_result)  # clients and authors come again and again; 2 MB at most


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
