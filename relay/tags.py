"""Tag lists, `v=1; d=example.org; …`: what signatures, their keys and DMARC records are written in.

STANDARDS  RFC 6376 §3.2; RFC 8616 §5 (UTF-8 in values). Of RFC 6376 the whole grammar is demanded: a list
           with a broken or a doubled tag is no list, and nothing of it is used.
TRUSTS     nothing: an unfolded field value, or a TXT record.
FAILS      MalformedTags. Each octet is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections import Counter

from relay.errors import MalformedTags

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_CONTROLS = r"\x00-\x08\x0a-\x1f\x7f"  # all but the tab
_CONTROL = re.compile(f"[{_CONTROLS}]")
_LIST = re.compile(rf"(?:[ \t]*{_NAME}[ \t]*=[^;{_CONTROLS}]*(?:;|\Z))+[ \t]*\Z")  # one ";" may end it
_TAG = re.compile(rf"({_NAME})[ \t]*=([^;]*)")  # of such a list
_SPACE = " \t"


def parse_tags(text: bytes) -> dict[str, str]:
    """The tags by name, in order; white space around values is off, inside them it stays. Raises MalformedTags."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedTags("the tag list is not valid UTF-8") from None
    if not _LIST.match(decoded):
        if _CONTROL.search(decoded):
            raise MalformedTags("a control character stands in the tag list")
        raise MalformedTags("a tag is not of the form name=value")
    found = _TAG.findall(decoded)
    tags = {name: value.strip(_SPACE) for name, value in found}
    if len(tags) != len(found):
        [(twice, _)] = Counter([name for name, _ in found]).most_common(1)
        raise MalformedTags(f"the tag {twice[:20]}= stands there twice")
    return tags


def words(value: str) -> list[str]:
    """The parts of a colon-separated value, as h=, q= and s= are: `from : to` becomes ["from", "to"]."""
    return [word.strip(_SPACE) for word in value.split(":")]


def base64_value(value: str) -> bytes:
    """The octets of a base64 value, in which white space may stand. Raises ValueError."""
    try:
        return a2b_base64(value.replace(" ", "").replace("\t", ""), strict_mode=True)
    except ValueError:  # binascii.Error is one
        raise ValueError("not base64") from None
