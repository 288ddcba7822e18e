"""`relay serve`: run the relay until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.options import config_option, exit_with, read_or_exit
from relay.errors import ConfigError
from relay.fact import Fact

if TYPE_CHECKING:
    from relay.app import App
    from relay.config.source import Loaded
    from relay.watch.notify import Notify


@click.command()
@config_option
def serve(path: Path | None) -> None:
    """Run the relay.

    SIGTERM and SIGINT stop it: no new connections, idle sessions get 421, messages in flight may
    finish. A second signal ends it at once. SIGHUP reads the configuration again, with all files it
    names: new sessions go by it, or, if it cannot be used, by the old one, and the log says why.
    """
    from relay.config.source import read

    run_until_signal(read_or_exit(path), lambda: read(path, os.environ))


def run_until_signal(loaded: Loaded, again: Callable[[], Loaded] | None = None) -> None:
    """Run the relay in this process; exit 2 when it cannot start as configured.

    again: reads the configuration anew, at SIGHUP.
    """
    import uvloop

    from relay.allocator import keep_large_blocks_apart
    from relay.link import LinkLost
    from relay.watch import logs

    _configure(loaded)
    logs.log(Fact("config.loaded", "", {"source": loaded.source}))
    keep_large_blocks_apart()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(loaded, again))
    except ConfigError as error:
        exit_with(error)
    except LinkLost as error:
        logs.log(Fact("app.failed", "", {"cause": str(error)}, "error"))
        sys.exit(1)


async def _serve(loaded: Loaded, again: Callable[[], Loaded] | None) -> None:
    from relay.allocator import set_aside_what_stays
    from relay.app import App
    from relay.clock import SystemClock
    from relay.config.share import count_of
    from relay.part import Part
    from relay.watch import logs
    from relay.watch.notify import Notify

    stop, hang_up, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def on_stop() -> None:
        if stop.is_set():
            app.kill()
            os._exit(1)  # no farewell: what has no 250 yet is its client's
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    clock, count = SystemClock(), count_of(loaded.config.workers)
    part = Part() if count == 1 else Part(serves=False, number=0, count=count)
    app = App(loaded.config, clock, logs.write, part)
    notify = Notify(os.environ, clock, app.record)
    await app.start()
    set_aside_what_stays()
    notify.ready()
    alive = asyncio.create_task(notify.keepalive())
    reloading = asyncio.create_task(_reload(app, hang_up, again, notify)) if again else None
    try:
        await stop.wait()
    finally:
        notify.stopping()
        if reloading is not None:
            reloading.cancel()
            await asyncio.wait([reloading])
        await app.stop()
        alive.cancel()


async def _reload(app: App, hang_up: asyncio.Event, again: Callable[[], Loaded], notify: Notify) -> None:
    """One reload after the other; SIGHUPs that come during one are one more."""
    from relay.allocator import set_aside_what_stays

    while await hang_up.wait():
        hang_up.clear()
        notify.reloading()
        status = "the configuration was rejected, see the log; taking mail by the old one"
        try:
            loaded = await asyncio.to_thread(again)
            await app.reload(loaded.config)
            set_aside_what_stays()
            _configure(loaded)
            status = "taking mail"
        except ConfigError as error:
            for problem in error.problems:
                app.record(Fact("config.rejected", "", {"problem": str(problem)}, "error"))
        except Exception as error:  # our own mistake; the relay goes on with what it has
            text = "".join(traceback.format_exception(error))
            app.record(Fact("config.rejected", "", {"problem": type(error).__name__, "traceback": text}, "error"))
        notify.ready(status)


def _configure(loaded: Loaded) -> None:
    from relay.watch import logs

    logs.configure(loaded.config.log.level, loaded.config.log.format)
    for warning in loaded.warnings:
        logs.log(Fact("config.warning", "", {"problem": str(warning)}, "warning"))
