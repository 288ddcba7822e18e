"""`relay serve`: run the relay until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.options import config_option, exit_with, read_or_exit
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
    loaded = read_or_exit(path)
    run_until_signal(loaded.config, loaded.source, [str(warning) for warning in loaded.warnings])


def run_until_signal(config: Config, source: str, warnings: Sequence[str] = ()) -> None:
    """Run the relay in this process; exit 2 when it cannot start as configured.

    source: where the configuration came from. warnings: about it, for the log.
    """
    import uvloop

    from relay.app import run
    from relay.fact import Fact
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
    logs.log(Fact("config.loaded", "", {"source": source}))
    for warning in warnings:
        logs.log(Fact("config.warning", "", {"problem": warning}, "warning"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except ConfigError as error:
        exit_with(error)
