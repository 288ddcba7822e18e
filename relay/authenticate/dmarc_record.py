"""What a DMARC policy record says: one TXT record in, its tags out, defaults filled in.

STANDARDS  RFC 9989 §4.7 (tags), §4.8 (grammar), §4.10.1 (what an invalid policy tag means).
           We differ: white space behind the last value is passed over, and so are empty tags (`;;`).
TRUSTS     nothing: the record is a stranger's. Each octet is looked at a bounded number of times.
FAILS      None for what is no DMARC record at all; every other fault costs one tag, and is told in `problems`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from relay.verdict import Disposition

MAX_RECORD = 8192  # octets; what is longer is no policy, and no reader of the log wants it

OBSOLETE = {"pct": "RFC 9989 has t=y instead", "rf": "one format is left", "ri": "reports are daily"}  # RFC 7489 §6.3

_VERSION = re.compile(r"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")  # only the value is case-sensitive
_NAME = re.compile(r"[A-Za-z]+\Z")
_VALUE = re.compile(r"[ -:<-~]+\Z")
_REQUEST = re.compile(r"(?:none|quarantine|reject)\Z", re.IGNORECASE)
_VALID = {
    "p": _REQUEST,
    "sp": _REQUEST,
    "np": _REQUEST,
    "psd": re.compile(r"[ynu]\Z", re.IGNORECASE),
    "t": re.compile(r"[yn]\Z", re.IGNORECASE),
    "adkim": re.compile(r"[rs]\Z", re.IGNORECASE),
    "aspf": re.compile(r"[rs]\Z", re.IGNORECASE),
    "fo": re.compile(r"[01ds](?::[01ds]){0,2}\Z", re.IGNORECASE),
}
# RFC 3986's characters without "," and "!"; behind "!" the size that RFC 9989 §4.8 calls obsolete.
_URI = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*:[A-Za-z0-9\-._~:/?#\[\]@$&'()*+;=%]+)(?:![0-9]+[kmgt]?)?\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Record:
    """text: the record as it stands. tags: those that are known and valid, by lower-case name.

    sound: False when `p` is missing or invalid, or `sp` or `np` invalid.
    problems: what was ignored and why, for people.
    """

    text: str
    tags: Mapping[str, str] = field(default_factory=dict)
    sound: bool = True
    problems: tuple[str, ...] = ()

    @property
    def psd(self) -> str:
        """`y`: a public suffix. `n`: an Organizational Domain. `u`: not said."""
        return self.tags.get("psd", "u").lower()

    @property
    def testing(self) -> bool:
        return self.tags.get("t", "n").lower() == "y"

    @property
    def report_uris(self) -> tuple[str, ...]:
        """Where aggregate reports are wanted, without obsolete sizes."""
        return _uris(self.tags.get("rua", ""))

    @property
    def usable(self) -> bool:
        """RFC 9989 §4.10.1: an unsound record without a valid `rua` means no DMARC at all."""
        return self.sound or bool(self.report_uris)

    def strict(self, method: str) -> bool:
        """Whether `adkim` (or `aspf`) wants equal domains."""
        return self.tags.get(f"a{method}", "r").lower() == "s"

    def policy(self, *names: str) -> Disposition:
        """The first of `names` (`np`, `sp`, `p`) that is given; `none` for an unsound record (RFC 9989 §4.10.1)."""
        values = [self.tags[name] for name in names if name in self.tags]
        return Disposition(values[0].lower()) if values and self.sound else Disposition.NONE


@lru_cache(512)  # most mail comes from few authors
def parse(octets: bytes) -> Record | None:
    """The record in one TXT record, strings joined; None when it is not one of DMARC (RFC 9989 §4.7, `v`)."""
    if len(octets) > MAX_RECORD:
        return None
    text = octets.decode("latin-1")
    version = _VERSION.match(text)
    if not version:
        return None
    tags: dict[str, str] = {}
    refused: set[str] = set()
    problems: list[str] = []
    for part in text[version.end() :].split(";"):
        name, equals, value = (piece.strip(" \t") for piece in part.partition("="))
        name = name.lower()
        if not name and not equals:
            continue
        problem = _problem(name, equals, value, tags)
        if problem:
            problems.append(problem)
            refused.add(name)
        elif name in _VALID or name in ("rua", "ruf"):
            tags[name] = value
    # A tag that stands there twice with two values has none: whose word would the first be?
    for name in refused & tags.keys():
        del tags[name]
    sound = "p" in tags and not {"sp", "np"} & refused
    if "p" not in tags and "p" not in refused:
        problems.append("p is missing")
    return Record("".join(c if " " <= c <= "~" else "?" for c in text), tags, sound, tuple(problems))


def _problem(name: str, equals: str, value: str, tags: Mapping[str, str]) -> str:
    """Why this tag is ignored; "" for one that is valid or unknown."""
    if not equals or not _NAME.match(name) or not _VALUE.match(value):
        return "a tag is malformed" if name not in _VALID else f"{name} is malformed"
    if name in OBSOLETE:
        return f"{name} is obsolete: {OBSOLETE[name]}"
    if tags.get(name, value) != value:
        return f"{name} is given twice"
    if name in _VALID and not _VALID[name].match(value):
        return f"{name}={value[:20]} is not valid"
    if name in ("rua", "ruf") and not _uris(value):
        return f"{name} has no valid URI"
    return ""


def _uris(value: str) -> tuple[str, ...]:
    found = (_URI.match(part.strip(" \t")) for part in value.split(","))
    return tuple(uri[1] for uri in found if uri)
