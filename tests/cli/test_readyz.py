"""`relay readyz` against a scripted HTTP server: one line, an exit code, and little to import."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli.readyz import readyz, web_address

READY = (200, {"ready": True, "listeners": True})
NOT_READY = (503, {"ready": False, "listeners": False, "inbox": True})


@contextmanager
def answering(*answers: tuple[int, object]) -> Iterator[tuple[int, list[str]]]:
    """A server on loopback that gives `answers` in turn, the last one for ever: its port, and the paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config.toml of the checkout, no variables of the caller."""
    monkeypatch.chdir(tmp_path)
    for name in ("RELAY_CONFIG", "RELAY_WEB__HOST", "RELAY_WEB__PORT"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, port: int | None = None) -> Result:
    environment = {} if port is None else {"RELAY_WEB__PORT": str(port)}
    return CliRunner().invoke(readyz, arguments, env=environment)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_ready_is_0() -> None:
    with answering(READY) as (port, asked):
        result = run(port=port)
    assert (result.exit_code, result.output) == (0, "ready\n")
    assert asked == ["/readyz"]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (NOT_READY, "not ready: listeners\n"),
        ((503, {"ready": False, "a\x1b[31m\n": False}), "not ready: a\\u001b[31m\\u000a\n"),
        ((503, b"no json"), "not ready: 127.0.0.1 port PORT answers 503\n"),
        ((503, b"[" * 60000), "not ready: 127.0.0.1 port PORT answers 503\n"),
        ((421, b""), "not ready: 127.0.0.1 port PORT answers 421\n"),
        ((503, []), "not ready: 127.0.0.1 port PORT answers 503\n"),
    ],
)
def test_not_ready_is_1_and_says_what_is_missing(answer: tuple[int, object], line: str) -> None:
    with answering(answer) as (port, asked):
        result = run(port=port)
    assert (result.exit_code, result.output) == (1, line.replace("PORT", str(port)))
    assert len(asked) == 1


def test_nobody_there_is_1() -> None:
    port = free_port()
    result = run(port=port)
    assert (result.exit_code, result.output) == (1, f"not ready: 127.0.0.1 port {port}: Connection refused\n")


def test_silence_ends_with_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = run("--timeout", "0.1s", port=server.getsockname()[1])
    assert result.exit_code == 1
    assert "timed out" in result.output


def test_what_is_no_http_is_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 \x1b[31mmail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        result = run(port=server.getsockname()[1])
        thread.join()
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert result.output.count("\n") == 1


def test_wait_asks_until_it_is_ready() -> None:
    with answering(NOT_READY, NOT_READY, READY) as (port, asked):
        result = run("--wait", port=port)
    assert (result.exit_code, result.output) == (0, "ready\n")
    assert len(asked) == 3


def test_wait_ends_with_the_timeout() -> None:
    with answering(NOT_READY) as (port, asked):
        result = run("--wait", "--timeout", "0.4", port=port)
    assert (result.exit_code, result.output) == (1, "not ready: listeners\n")
    assert asked


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "nan", "inf", "1e9", ""])
def test_a_bad_timeout_is_2(timeout: str) -> None:
    assert run("--timeout", timeout).exit_code == 2


@pytest.mark.parametrize(
    ("toml", "environment", "address"),
    [
        ("", {}, ("127.0.0.1", 8025)),
        ("[web]\nport = 80", {}, ("127.0.0.1", 80)),
        ('[web]\nhost = "192.0.2.1"\nport = 80', {}, ("192.0.2.1", 80)),
        ('[web]\nhost = "0.0.0.0"', {}, ("127.0.0.1", 8025)),  # a wildcard can be bound, not asked
        ('[web]\nhost = "::"', {}, ("::1", 8025)),
        ("[web]\nport = 80", {"RELAY_WEB__PORT": "81"}, ("127.0.0.1", 81)),
        ("", {"RELAY_WEB__HOST": "0.0.0.0", "RELAY_WEB__PORT": "81"}, ("127.0.0.1", 81)),
        ("\ufeff[web]\nport = 80", {}, ("127.0.0.1", 80)),
    ],
)
def test_where_it_asks(tmp_path: Path, toml: str, environment: dict[str, str], address: tuple[str, int]) -> None:
    file = tmp_path / "other.toml"
    file.write_text(toml)
    assert web_address(file, environment) == address


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("81\n")
    assert web_address(None, {"RELAY_WEB__PORT_FILE": str(tmp_path / "port")}) == ("127.0.0.1", 81)


def test_config_toml_here_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[web]\nport = 82\n")
    assert web_address(None, {}) == ("127.0.0.1", 82)


@pytest.mark.parametrize(
    "toml",
    ["[web", "web = 1", "[web]\nport = 0", "[web]\nport = 70000", '[web]\nport = "x"', "[web]\nhost = 1", "a = \x00"],
)
def test_an_unreadable_configuration_is_2(tmp_path: Path, toml: str) -> None:
    (tmp_path / "bad.toml").write_text(toml)
    result = run("-c", "bad.toml")
    assert result.exit_code == 2
    assert result.output.startswith("relay: ")


def test_a_missing_configuration_is_2() -> None:
    result = run("-c", "missing.toml")
    assert (result.exit_code, result.output) == (2, "relay: missing.toml: No such file or directory\n")


def test_it_imports_little() -> None:
    """A health check runs every few seconds."""
    heavy = [
        "pydantic",
        "aiohttp",
        "sqlalchemy",
        "prometheus_client",
        "aiosmtpd",
        "aiosmtplib",
        "cryptography",
    ]
    script = f"import sys, relay.cli.readyz; print([name for name in {heavy!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "[]\n", ended.stderr
