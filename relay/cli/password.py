"""`relay password`: make the hash of a password for the login file."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--name", help="Print the whole line for this login.")
@click.option(
    "--sender",
    "senders",
    multiple=True,
    help='An address, "@domain" or "*" that the login may send as; may be given several times.',
)
def password(name: str | None, senders: tuple[str, ...]) -> None:
    """Make the hash of a password for the login file.

    Asks twice on a terminal; otherwise one line is read from standard input.
    """
    from argon2 import PasswordHasher

    from relay.accept.login import fault

    if senders and not name:
        raise click.UsageError("--sender needs --name")
    if sys.stdin.isatty():
        secret: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise click.UsageError("the password is empty")
    words = [PasswordHasher().hash(secret), *senders]
    if name is None:
        click.echo(words[0])
        return
    if wrong := fault(name, words):
        raise click.UsageError(wrong)
    click.echo(f"{name}: {' '.join(words)}")
