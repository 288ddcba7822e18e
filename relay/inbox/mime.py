"""A message as people read it: field values and text decoded, never written back, never decided upon.

STANDARDS  RFC 2047 (encoded words), RFC 2045 and 2046 (which part is the text).
TRUSTS     nothing. The input is cut to a size before `email` sees it: its regular expressions are
           quadratic on hostile encoded words, and its parser recurses as deep as parts nest.
FAILS      never: what cannot be decoded is shown as it stands. What comes back may hold control
           characters; whoever prints it escapes them (`escape.py`).
"""

from __future__ import annotations

from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Part

MAX_VALUE = 2000  # octets of a field's value that are decoded
MAX_SOURCE = 1024 * 1024  # octets of a message in which the text is looked for
MAX_TEXT = 8000  # characters of text that are returned


def display(value: bytes) -> str:
    """A field's value on one line, encoded words decoded; at most `MAX_VALUE` octets of it are looked at."""
    text = " ".join(value[:MAX_VALUE].decode("utf-8", "replace").split())
    try:
        text = str(make_header(decode_header(text)))
    except Exception:  # unknown charsets, broken base64, codecs with whims: shown undecoded
        return text
    return " ".join(_whole(text).split())


def preview(source: bytes) -> str:
    """The first text/plain part (else the first text part), decoded; "" if there is none to be found."""
    try:
        parts = [
            part for part in message_from_bytes(source[:MAX_SOURCE]).walk() if part.get_content_maintype() == "text"
        ]
        parts.sort(key=lambda part: part.get_content_subtype() != "plain")
        return _whole(_text(parts[0]))[:MAX_TEXT] if parts else ""
    except Exception:  # RecursionError on deep nesting, and whatever hostile MIME brings out
        return ""


def _text(part: Part) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(part.get_content_charset("utf-8"), "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def _whole(text: str) -> str:
    """Without lone surrogates (UTF-7 makes them), which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
