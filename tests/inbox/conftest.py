"""An inbox in a temporary folder, and mail to deliver to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.fact import Fact
from relay.inbox.store import Inbox


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
async def inbox(tmp_path: Path, facts: list[Fact]) -> AsyncIterator[Inbox]:
    store = Inbox(tmp_path / "data" / "inbox.db", "inbox", 1000, SystemClock(), facts.append)
    await store.open()
    yield store
    await store.close()
