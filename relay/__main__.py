"""The command `relay`. Each verb is a file in `cli/`, imported when it is asked for and not before."""

from __future__ import annotations

import importlib

import click

from relay import __version__

VERBS = {
    "serve": "run the relay",
    "dev": "run a dev relay: take every mail into the inbox, no configuration needed",
    "config": "check or print the configuration, or its JSON schema",
    "spf": "check a client and a sender by SPF, and print why",
    "verify": "check a message by SPF, DKIM, ARC and DMARC, and say why",
    "explain": "tell the story of a message: what was found, decided and answered",
    "sign": "sign a message file with DKIM",
    "keys": "make DKIM keys, list them, print their DNS records",
    "inbox": "list, show and delete what the inbox holds",
    "queue": "see what mail waits and why; try it now, hold, release or drop it",
    "password": "make the hash of a password for the login file",
    "readyz": "ask a running relay whether it is ready (for health checks)",
}


class Verbs(click.Group):
    """`relay VERB` is the click command named VERB in `relay.cli.VERB`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"relay.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def main() -> None:
    """An SMTP relay: a smart host for apps, a gateway before a mailbox server, a dev relay.

    Exit codes: 0 fine, 1 a finding, 2 wrong use or a configuration that cannot be loaded.
    """


if __name__ == "__main__":
    main()
