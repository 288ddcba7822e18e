"""How verbs print what is foreign: for people escaped, for programs octet by octet."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from relay.escape import escape


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need. rows: the head first, all of one length."""
    escaped = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    for row in escaped:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_source(content: bytes | bytearray) -> None:
    """A message as it is; on a terminal with its control characters escaped."""
    if sys.stdout.isatty():
        for line in content.decode("utf-8", "backslashreplace").split("\r\n"):
            click.echo(escape(line.expandtabs()))
    else:
        sys.stdout.buffer.write(content)
