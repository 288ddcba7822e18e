"""Public test suites, read at run time from a folder beside the repository; none of them is copied into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2].parent / "shared" / "suites"


def suite(*parts: str) -> Path:
    """The path of a file in a suite. Skips the test where there are none; in CI it fails."""
    path = _FOLDER.joinpath(*parts)
    if not path.exists():
        reason = f"the public suites are not here: no {path}"
        if os.environ.get("CI") or os.environ.get("RELAY_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
