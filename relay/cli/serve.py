"""`relay serve`: run the relay until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.options import config_option, load_or_exit
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config.models import Config


@click.command()
@config_option
def serve(path: Path | None) -> None:
    """Run the relay.

    SIGTERM and SIGINT stop it: no new connections, idle sessions get 421, messages in flight may
    finish. A second signal ends it at once.
    """
    run_until_signal(load_or_exit(path))


def run_until_signal(config: Config) -> None:
    """Run the relay in this process; exit 2 when it cannot start as configured."""
    import uvloop

    from relay.app import run
    from relay.watch import logs

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                sys.exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await run(config, stop)

    logs.configure(config.log.level, config.log.format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"relay: {problem}", err=True)
        sys.exit(2)
