"""Facts are told behind replies, but in time where nobody comes back to tell them."""

from pathlib import Path
from typing import Any

from relay.config.models import Config
from relay.fact import Fact
from tests.support.running import running


def tables() -> dict[str, Any]:
    return {"listener": {"dev": {"role": "capture", "port": 0}}}


async def test_a_reload_is_told_before_the_new_log_is_set_up(tmp_path: Path) -> None:
    """`cli/serve.py` configures the log as soon as `reload` returns: a log of warnings must still have that line."""
    async with running(tables(), tmp_path) as relay:
        again = {"hostname": "relay.test", "data": str(tmp_path), "web": {"port": 0}, **tables()}
        await relay.app.reload(Config.model_validate(again))
        assert relay.events()[-1] == "config.reloaded"


async def test_all_is_told_before_the_process_is_ended_at_once(tmp_path: Path) -> None:
    async with running(tables(), tmp_path) as relay:
        relay.app.record(Fact("accept.received", "m1"))
        assert relay.events()[-1] != "accept.received"
        relay.app.kill()
        assert relay.events()[-1] == "accept.received"
