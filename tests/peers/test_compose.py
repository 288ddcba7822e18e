"""docker/compose.yaml without the container engine: its grammar, its Dovecot, its relay's configuration."""

from __future__ import annotations

import smtplib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.composed import DOCKER, PORT, ComposedDovecot, running_composed_dovecot
from tests.support.peers import free_port, require
from tests.support.relay_process import RelayProcess, running_relay

pytestmark = pytest.mark.xdist_group("compose")

COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
RELAY, DOVECOT = COMPOSE["services"]["relay"], COMPOSE["services"]["dovecot"]
MAIL = b"From: eve@example.net\r\nTo: ann@example.org\r\nSubject: hello\r\n\r\nhello, ann\r\n"


def test_docker_compose_understands_it() -> None:
    program = require("docker-compose", "docker-compose")
    run = subprocess.run(
        [program, "-f", str(DOCKER / "compose.yaml"), "config", "--services"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split()) == ["dovecot", "relay"]


@pytest.fixture(scope="module")
def dovecot() -> Iterator[ComposedDovecot]:
    with running_composed_dovecot(DOVECOT["cap_add"]) as dovecot:
        yield dovecot


@pytest.fixture(scope="module")
def relay(dovecot: ComposedDovecot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """On gateway.toml, but for the host and port of Dovecot, its own ports and the greeting's delay."""
    tables = tomllib.loads((DOCKER / "gateway.toml").read_text())
    del tables["listener"]["gateway"]["port"], tables["web"], tables["delay"]
    tables["hop"]["dovecot"] |= {"host": ["127.0.0.1"], "port": dovecot.port}
    with running_relay(tmp_path_factory.mktemp("relay"), tables) as relay:
        yield relay


def test_mail_arrives_in_the_mailbox(relay: RelayProcess, dovecot: ComposedDovecot) -> None:
    with smtplib.SMTP("127.0.0.1", relay.ports["gateway"]) as client:
        assert client.sendmail("eve@example.net", ["ann@example.org"], MAIL) == {}
    fetched = dovecot.run("doveadm", "fetch", "-u", "ann@example.org", "text", "all")
    assert "hello, ann" in fetched.stdout, (fetched.stderr, dovecot.log)


def test_who_is_unknown_hears_so_at_rcpt(relay: RelayProcess) -> None:
    with smtplib.SMTP("127.0.0.1", relay.ports["gateway"]) as client:
        client.ehlo()
        client.mail("eve@example.net")
        assert client.rcpt("nobody@example.org")[0] == 550
        assert client.rcpt("someone@elsewhere.example")[0] == 550
        assert client.rcpt("bob@example.org")[0] == 250


def test_dovecot_says_that_it_is_healthy(dovecot: ComposedDovecot) -> None:
    form, *command = DOVECOT["healthcheck"]["test"]
    assert form == "CMD"
    assert command[-1].count(PORT) == 1
    test = command.pop().replace("$$", "$")  # compose's way to write $
    assert dovecot.run(*command, test.replace(PORT, str(dovecot.port))).returncode == 0
    assert dovecot.run(*command, test.replace(PORT, str(free_port()))).returncode != 0


def test_dovecots_root_is_read_only(dovecot: ComposedDovecot) -> None:
    assert DOVECOT["read_only"]
    assert "Read-only" in dovecot.run("touch", "/etc/x").stderr
    assert dovecot.run("touch", *(f"{folder}/x" for folder in DOVECOT["tmpfs"])).returncode == 0


def test_the_two_files_agree() -> None:
    gateway = tomllib.loads((DOCKER / "gateway.toml").read_text())
    hop = gateway["hop"]["dovecot"]
    assert hop["host"] == ["dovecot"]
    assert str(hop["port"]) == PORT
    assert set(RELAY["networks"]) & set(DOVECOT["networks"]) == {"mailbox"}
    assert COMPOSE["networks"]["mailbox"] == {"internal": True}
    assert RELAY["depends_on"] == {"dovecot": {"condition": "service_healthy"}}
    published = [port.split(":") for port in RELAY["ports"]]
    assert {host for host, _, _ in published} == {"127.0.0.1"}
    assert {int(inside) for _, _, inside in published} == {gateway["listener"]["gateway"]["port"], 8025}
    assert "ports" not in DOVECOT
    for service in (RELAY, DOVECOT):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert Path(DOCKER / "dovecot/Dockerfile").is_file()
