"""A DNS server with the ZONE of the test's module, and a Resolver that asks it; a module may have its own."""

from collections.abc import AsyncIterator

import pytest

from relay.resolver import Resolver
from tests.support.dns import DnsServer, dns_server


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[DnsServer]:
    async with dns_server(request.module.ZONE) as running:
        yield running


@pytest.fixture
async def resolver(server: DnsServer) -> AsyncIterator[Resolver]:
    made = Resolver([server.nameserver], timeout=5.0)
    yield made
    await made.close()
