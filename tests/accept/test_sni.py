"""The certificate a client sees is the one for the name it asks for (RFC 6066 §3, RFC 9525 §6.3)."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from relay.accept import tls
from relay.errors import ConfigError
from tests.support.smtp_client import smtp_client
from tests.support.stages import Scripted, configured, listening

CERTIFICATES = {
    "default": ["default.test", "localhost"],
    "one": ["mx.one.test", "Other.ONE.test"],
    "wild": ["*.wild.test"],
    "exact": ["mx.wild.test"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sni")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made / "ca.pem"))
    for name, hosts in CERTIFICATES.items():
        issued = authority.issue_cert(*hosts)
        (made / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        (made / f"{name}.key").write_bytes(issued.private_key_pem.bytes())
    issued = authority.issue_cert("192.0.2.1")
    (made / "nameless.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (made / "nameless.key").write_bytes(issued.private_key_pem.bytes())
    return made


def pair(folder: Path, name: str) -> dict[str, str]:
    return {"certificate": str(folder / f"{name}.pem"), "key": str(folder / f"{name}.key")}


def tables(folder: Path, mode: str, names: tuple[str, ...] = ("one", "wild", "exact")) -> dict[str, Any]:
    sni = {name: pair(folder, name) for name in names}
    return {"listener": {"in": {"role": "capture", "tls": mode, **pair(folder, "default"), "sni": sni}}}


def names_of(certificate: Any) -> list[str]:
    return [value for kind, value in certificate["subjectAltName"] if kind == "DNS"]


async def seen(folder: Path, mode: str, asked: str | None) -> list[str]:
    """The names of the certificate that a client gets which asks for `asked`."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    async with listening(Scripted(), tables(folder, mode)) as relay:
        address = relay.address("in")
        if mode == "implicit":
            reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=asked or "")
        else:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"EHLO client.test\r\nSTARTTLS\r\n")
            while not (await reader.readline()).startswith(b"220 2.0.0"):
                pass
            await writer.start_tls(context, server_hostname=asked or "")
        found = names_of(writer.get_extra_info("peercert"))
        writer.close()
        await writer.wait_closed()
        return found


CASES = [
    ("mx.one.test", "one"),
    ("MX.One.test", "one"),
    ("other.one.test", "one"),
    ("one.test", "default"),
    ("a.wild.test", "wild"),
    ("mx.wild.test", "exact"),  # the exact name before the wildcard
    ("a.b.wild.test", "default"),  # a wildcard is one label
    ("wild.test", "default"),
    ("unknown.test", "default"),
    (None, "default"),
]


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
@pytest.mark.parametrize(("asked", "certificate"), CASES)
async def test_the_certificate_for_a_name(folder: Path, mode: str, asked: str | None, certificate: str) -> None:
    assert await seen(folder, mode, asked) == [name.lower() for name in CERTIFICATES[certificate]]


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_on_uvloop_too(folder: Path, mode: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(seen(folder, mode, "mx.one.test")) == ["mx.one.test", "other.one.test"]


async def test_a_verifying_client_is_content(folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    async with (
        listening(Scripted(), tables(folder, "starttls")) as relay,
        smtp_client(relay.address("in")) as client,
    ):
        await client.read()
        await client.converse(b"EHLO client.test", b"STARTTLS")
        await client.start_tls(context)  # it checks for localhost
        assert "250" in await client.say(b"EHLO client.test")


@pytest.mark.parametrize("name", ["absent", "nameless"])
def test_a_certificate_that_is_of_no_use_is_named(folder: Path, name: str) -> None:
    settings = configured(tables(folder, "implicit", (name,))).listener["in"]
    with pytest.raises(ConfigError) as caught:
        tls.context("in", settings)
    (problem,) = caught.value.problems
    assert problem.key == f"listener.in.sni.{name}.certificate"


def test_a_context_is_read_anew_each_time(folder: Path, tmp_path: Path) -> None:
    settings = configured(tables(folder, "implicit")).listener["in"]
    assert tls.context("in", settings) is not tls.context("in", settings)
