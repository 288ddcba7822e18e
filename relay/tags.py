"""Tag lists, `v=1; d=example.org; …`: what signatures, their keys and DMARC records are written in.

STANDARDS  RFC 6376 §3.2; RFC 8616 §5 (UTF-8 in values). Of RFC 6376 the whole grammar is demanded: a list
           with a broken or a doubled tag is no list, and nothing of it is used.
TRUSTS     nothing: an unfolded field value, or a TXT record.
FAILS      MalformedTags. Each octet is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from binascii import a2b_base64

from relay.errors import MalformedTags

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])  # all but the tab
_SPACE = " \t"


def parse_tags(text: bytes) -> dict[str, str]:
    """The tags by name, in order; white space around values is off, inside them it stays. Raises MalformedTags."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedTags("the tag list is not valid UTF-8") from None
    if len(text.translate(None, _CONTROLS)) != len(text):
        raise MalformedTags("a control character stands in the tag list")
    specs = decoded.split(";")
    if len(specs) > 1 and not specs[-1].strip(_SPACE):  # one ";" may end the list
        specs.pop()
    tags: dict[str, str] = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        name, value = name.strip(_SPACE), value.strip(_SPACE)
        if not equals or not _NAME.match(name):
            raise MalformedTags("a tag is not of the form name=value")
        if name in tags:
            raise MalformedTags(f"the tag {name[:20]}= stands there twice")
        tags[name] = value
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
