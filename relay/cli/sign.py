"""`relay sign`: sign a message file as the relay would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import click

from relay.cli.options import config_option, load_or_exit, read_message

if TYPE_CHECKING:
    from relay.fact import Fact


@click.command()
@click.argument("file", type=click.File("rb"))
@config_option
def sign(file: BinaryIO, path: Path | None) -> None:
    """Sign the message in FILE ("-": standard input) with the keys of its From domain; prints it to standard output.

    Line ends that are LF become CRLF. Exit 1: it is not a message that can be signed, or no key is for it.
    """
    from relay.author import parse_author
    from relay.clock import SystemClock
    from relay.edit.sign import Signer
    from relay.edit.sign import sign as sign_dkim
    from relay.errors import ConfigError, RelayError
    from relay.message import Message

    config = load_or_exit(path)
    try:
        signer = Signer(config.domain, SystemClock(), _ignore)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"relay: {problem}", err=True)
        sys.exit(2)
    content = read_message(file)
    try:
        author = parse_author(Message.parse(content))
        domain = signer.domain(author)
        keys = signer.keys(domain) if domain else ()
        if not keys:
            _fail(f"{author.domain_key} has no key: " + ("none is configured" if domain else "no [domain] is for it"))
        signed = sign_dkim(content, keys)
    except RelayError as error:
        _fail(str(error))
    click.echo(signed, nl=False)
    for key in keys:
        click.echo(f"relay: signed by {key.domain}, selector {key.selector}, {key.algorithm}", err=True)


def _ignore(fact: Fact) -> None:
    """What is to be said, `sign` says itself."""


def _fail(text: str) -> NoReturn:
    click.echo(f"relay: {text}", err=True)
    sys.exit(1)
