"""What is asked for often must start fast: counted in modules, not in milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"pydantic", "aiohttp", "sqlalchemy", "cryptography", "aiosmtpd", "aiosmtplib", "uvloop"}
RUN = """
import json, sys
from relay.__main__ import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit:
    pass
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["readyz", "--help"], ["readyz"], ["queue", "--help"]]
)
def test_it_imports_nothing_heavy(arguments: list[str]) -> None:
    # Nothing listens on port 1: readyz does all of its work, to the refused connection.
    environ = {"RELAY_WEB__PORT": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(arguments)], capture_output=True, text=True, env=environ, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "click" in loaded
    assert not loaded & HEAVY
