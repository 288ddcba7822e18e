"""The container image, as far as it can be read: no container engine is asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from relay.config.models import Config
from relay.config.source import load

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
IMAGE_CONFIG = ROOT / "docker" / "config.toml"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """What the image runs on: its file and its environment."""
    return load(IMAGE_CONFIG, {"RELAY_DATA": str(tmp_path)})


def instruction(name: str) -> str:
    """The arguments of the last instruction of this name."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)[-1]


def test_its_configuration_loads_and_listens_on_every_address(config: Config) -> None:
    assert {listener.host for listener in config.listener.values()} == {"0.0.0.0"}
    assert config.web.host == "0.0.0.0"


def test_it_exposes_the_ports_it_listens_on(config: Config) -> None:
    ports = {listener.port for listener in config.listener.values()} | {config.web.port}
    assert {int(port) for port in instruction("EXPOSE").split()} == ports


def test_only_private_networks_may_send_without_a_login(config: Config) -> None:
    allowed = config.listener["submission"].allow
    assert allowed
    assert all(network.is_private for network in allowed)


def test_all_mail_stays_in_the_inbox_until_a_server_is_named(config: Config, tmp_path: Path) -> None:
    assert {hop.kind for hop in config.hop.values()} == {"inbox"}
    environment = {"RELAY_DATA": str(tmp_path), "RELAY_HOSTNAME": "relay.example.org"}
    environment |= {"RELAY_HOP__NEXT__KIND": "smtp", "RELAY_HOP__NEXT__HOST": "192.0.2.1"}
    assert load(IMAGE_CONFIG, environment).hop["next"].host == ("192.0.2.1",)


def test_its_commands_need_no_shell() -> None:
    health = instruction("HEALTHCHECK").partition(" CMD ")[2]
    commands = [json.loads(text) for text in (instruction("ENTRYPOINT"), instruction("CMD"), health)]
    assert commands == [["relay"], ["serve"], ["relay", "readyz", "--timeout", "4s"]]


def test_it_does_not_run_as_root() -> None:
    assert instruction("USER") == "10001:10001"


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for words in re.findall(r"^COPY +(?!--from)(.*)$", DOCKERFILE, re.MULTILINE)]
    for path in {path for paths in copied for path in paths}:
        assert (ROOT / path).exists()
        assert path in kept


def test_dovecots_files_are_there() -> None:
    folder = ROOT / "docker" / "dovecot"
    copied = re.findall(r"^COPY +(.*) /etc/dovecot/$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    assert all((folder / name).is_file() for names in copied for name in names.split())


def test_the_gateway_of_compose_loads(tmp_path: Path) -> None:
    config = load(ROOT / "docker" / "gateway.toml", {"RELAY_DATA": str(tmp_path)})
    assert {one.role for one in config.listener.values()} == {"gateway"}
    assert {(one.kind, one.identify) for one in config.hop.values()} == {("lmtp", "xclient")}
