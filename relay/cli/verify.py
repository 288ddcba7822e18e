"""`relay verify`: what all checks say of a message, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from relay.cli.options import config_option, dns_options, json_option, load_or_exit, make_resolver, read_message

if TYPE_CHECKING:
    from relay.resolver import Resolver

SECOND_OPINION = 10.0  # seconds for dkimpy, which hostile mail can keep busy for much longer


@click.command()
@click.argument("file", metavar="MESSAGE", type=click.File("rb"))
@click.option("--ip", required=True, help="The address of the client that sent it.")
@click.option("--helo", required=True, help="What that client said in EHLO.")
@click.option("--mail-from", required=True, help="Its reverse-path, <> for none.")
@click.option("--trusted-sealer", "trusted", multiple=True, metavar="DOMAIN", help="A domain whose ARC seals count.")
@click.option("--second-opinion", is_flag=True, help="Ask dkimpy too, and say where it differs.")
@dns_options
@config_option
@json_option
def verify(
    file: BinaryIO,
    path: Path | None,
    ip: str,
    helo: str,
    mail_from: str,
    trusted: tuple[str, ...],
    second_opinion: bool,
    nameserver: str | None,
    zone: Path | None,
    as_json: bool,
) -> None:
    """Check the message in MESSAGE ("-": standard input) by reverse DNS, SPF, DKIM, ARC and DMARC.

    Prints every DNS question with its time, what followed from it, and what the [policy] of the configuration
    would do with the message: the rule that fires and the reply. Exit 0: DMARC passed, or the
    author's domain publishes none. Exit 1: anything else.
    """
    import asyncio
    import json
    from ipaddress import ip_address

    from relay.decide.policy import decide
    from relay.escape import escape
    from relay.report.explanation import decided, decision_line, facts, lines

    try:
        ip_address(ip)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    policy = load_or_exit(path).policy
    content, resolver = read_message(file), make_resolver(nameserver, zone)
    found, other = asyncio.run(
        _check(content, ip, helo, mail_from, {*trusted, *policy.trusted_sealers}, resolver, second_opinion)
    )
    decision = decide("id", found, policy)
    said = {"decision": decided(decision), "reply": str(decision.reply) if decision.reply else None}
    if as_json:
        click.echo(json.dumps(facts(found) | said | ({"dkimpy": other} if second_opinion else {}), indent=2))
    else:
        for line in lines(facts(found)):
            click.echo(escape(line))
        click.echo(escape(decision_line(decided(decision))))
        if decision.reply:
            click.echo(escape(f"reply: {decision.reply}"))
        for number, result in enumerate(other, 1):
            click.echo(escape(f"dkimpy on signature {number}: {result}"))
    sys.exit(found.dmarc.result not in ("pass", "none"))


async def _check(
    content: bytes,
    ip: str,
    helo: str,
    mail_from: str,
    trusted: set[str],
    resolver: Resolver,
    second_opinion: bool,
) -> tuple[Any, list[str]]:
    from relay.authenticate.check import authenticate
    from relay.authenticate.second_opinion import ask_dkimpy

    try:
        found = await authenticate(content, ip, helo, mail_from, resolver, trusted_sealers=trusted)
        return found, await ask_dkimpy(content, resolver, SECOND_OPINION) if second_opinion else []
    finally:
        await resolver.close()
