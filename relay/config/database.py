"""Pure: the url of a PostgreSQL database, taken apart.

    postgresql://user:password@host:port,host:port/database?sslmode=verify-full&sslrootcert=/etc/relay/db-ca.pem

STANDARDS  RFC 3986, and PostgreSQL's manual §34.1.1.2 (connection URIs), of which this is a part.
TRUSTS     nothing: libraries repair a url, or quote in their errors what they could not read, and a password
           with a "/" or an "@" in it ends up in a log as a host name.
FAILS      ValueError, whose text quotes nothing of the url.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote

PORT = 5432

_SHAPE = 'write "postgresql://user@host/database"'
_ESCAPE = "; in a name or a password, / ? # @ and : are written %2F %3F %23 %40 and %3A"
# By ourselves: `urlsplit` of newer Pythons takes no list of hosts with an IPv6 address in it.
_URL = re.compile(r"(?i:postgres(?:ql)?)://([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?\Z")
_HOST = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+)\])(?::(\d{1,5}))?\Z")
_KNOWN = {"host", "sslmode", "sslrootcert", "sslcert", "sslkey"}


class SslMode(StrEnum):
    """libpq's words. Those that mean "TLS or not, whichever comes about" are not among them."""

    DISABLE = "disable"
    REQUIRE = "require"  # TLS, with anybody
    VERIFY_CA = "verify-ca"  # with whoever has a certificate of this authority
    VERIFY_FULL = "verify-full"  # and for the name of the host


@dataclass(frozen=True, slots=True)
class Database:
    """hosts: name or address, and port; or the folder of a Unix socket. One of them is the primary.

    user, password: None where the url has none; then PostgreSQL's own places count (PGUSER, ~/.pgpass).
    root: file of the authorities to believe, None for the system's. certificate, key: files, ours.
    """

    hosts: tuple[tuple[str, int], ...]
    name: str
    user: str | None
    password: str | None = field(repr=False)
    ssl_mode: SslMode
    root: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        """Fit for a log."""
        return f"{','.join(place(*host) for host in self.hosts)}/{self.name}"


def place(host: str, port: int) -> str:
    """A host and a port, as people write them."""
    return host if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_database(url: str) -> Database:
    """Raises ValueError."""
    parts = _URL.match(url)
    if parts is None or not url.isprintable():
        raise ValueError(_SHAPE + _ESCAPE)
    login, at, hosts = parts[1].rpartition("@")
    name = unquote(parts[2] or "")
    if "@" in login or "/" in name or "@" in name or not name or (at and not login):
        raise ValueError(_SHAPE + _ESCAPE)
    options = _options(parts[3] or "")
    user, _, password = login.partition(":")
    found = tuple(_hosts(hosts, options.get("host", "")))
    return Database(
        found,
        name,
        unquote(user) or None,
        unquote(password) or None,
        _ssl_mode(options.get("sslmode", ""), found),
        options.get("sslrootcert"),
        options.get("sslcert"),
        options.get("sslkey"),
    )


def _options(query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError(f'write parameters as "?sslmode=verify-full&sslrootcert=FILE"{_ESCAPE}') from None
    options = dict(pairs)
    if options.keys() - _KNOWN or len(options) < len(pairs):
        raise ValueError(f"its parameters may be {', '.join(sorted(_KNOWN))}, each once")
    return options


def _hosts(hosts: str, folder: str) -> Iterator[tuple[str, int]]:
    if folder:
        if hosts or not folder.startswith("/"):
            raise ValueError('"host" as a parameter is the folder of a Unix socket, with no other host beside it')
        yield folder, PORT
        return
    for host in hosts.split(","):
        found = _HOST.match(host)
        port = int(found[3] or PORT) if found else 0
        if found is None or not 0 < port < 65536:
            raise ValueError(_SHAPE + _ESCAPE)
        yield found[1] or found[2], port


def _ssl_mode(mode: str, hosts: tuple[tuple[str, int], ...]) -> SslMode:
    """Mail and passwords cross no network in the clear, and reach no stranger, unless the url says so."""
    if not mode:
        return SslMode.DISABLE if all(_is_here(host) for host, _ in hosts) else SslMode.VERIFY_FULL
    if mode not in list(SslMode):
        raise ValueError(f"its sslmode may be {', '.join(SslMode)}")
    return SslMode(mode)


def _is_here(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
