"""`relay spf`: what SPF says of a client and a sender, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.options import dns_options, json_option, make_resolver

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address

    from relay.resolver import Resolver
    from relay.verdict import SpfVerdict, Step


@click.command()
@click.argument("ip")
@click.argument("mail_from", metavar="MAIL-FROM")
@click.option(
    "--helo", default="", help="What the client said in EHLO. For MAIL-FROM <> it is the name that is checked."
)
@dns_options
@json_option
def spf(ip: str, mail_from: str, helo: str, nameserver: str | None, zone: Path | None, as_json: bool) -> None:
    """Check by SPF whether the client at IP may send as MAIL-FROM, and print every term and every DNS question.

    MAIL-FROM is an address, a domain, or <>. Exit 0: pass. Exit 1: any other result.
    """
    import asyncio
    import json
    from dataclasses import asdict
    from ipaddress import ip_address

    try:
        address = ip_address(ip)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    sender = mail_from.removeprefix("<").removesuffix(">")
    if not sender and not helo:
        raise click.UsageError("MAIL-FROM <> is checked as postmaster at --helo, which is missing")
    verdict = asyncio.run(_check(address, sender, helo, make_resolver(nameserver, zone)))
    if as_json:
        steps = [step._asdict() for step in verdict.trace]
        click.echo(json.dumps(asdict(verdict) | {"trace": steps}, indent=2))
    else:
        for line in _lines(verdict):
            click.echo(line)
    sys.exit(verdict.result != "pass")


async def _check(ip: IPv4Address | IPv6Address, sender: str, helo: str, resolver: Resolver) -> SpfVerdict:
    from relay.authenticate.spf import check_mail_from

    try:
        return await check_mail_from(ip, sender, helo, resolver)
    finally:
        await resolver.close()


def _lines(verdict: SpfVerdict) -> Iterable[str]:
    for step in verdict.trace:
        yield _line(step)
    why = verdict.problem or (f"by {verdict.mechanism}" if verdict.mechanism else "no term matched")
    yield f"{verdict.result}: {_printable(f'{verdict.domain}: {why}')}"
    if verdict.explanation:
        yield f"explanation: {verdict.explanation}"
    yield f"lookups {verdict.lookups} of 10, void lookups {verdict.void_lookups} of 2"


def _line(step: Step) -> str:
    spent = f"  ({step.seconds * 1000:.1f} ms)" if step.seconds else ""
    found = f": {step.found}" if step.found else ""
    return "  " * step.depth + _printable(step.what + found) + spent


def _printable(text: str) -> str:
    """What DNS says goes to a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
