"""`relay dev`: a dev relay in one word."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--port", default=1025, show_default=True, help="SMTP port on 127.0.0.1.")
@click.option("--web-port", default=8025, show_default=True, help="Port of /livez, /readyz and /metrics.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    envvar="RELAY_DATA",
    help="Folder of the inbox.",
)
def dev(port: int, web_port: int, data: Path) -> None:
    """Take every mail into the inbox. Nothing leaves; read it with `relay inbox list`."""
    from relay.cli.serve import run_until_signal
    from relay.config.models import Config
    from relay.config.source import Loaded

    config = Config.model_validate(
        {
            "hostname": "localhost",
            "data": data,
            "listener": {"capture": {"role": "capture", "port": port}},
            "web": {"port": web_port},
        }
    )
    run_until_signal(Loaded(config, "command line", ()))
