"""A real DNS server on loopback: Knot, authoritative for the zones that a test gives as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.support.peers import free_port, open_folder, require, running

# name below the zone ("@" is the zone itself) → records as a zone file has them: `TXT "…"`, `A 192.0.2.1`.
Zone = Mapping[str, Sequence[str]]


@contextmanager
def running_knot(zones: Mapping[str, Zone], port: int = 0) -> Iterator[int]:
    """Serve `zones` (named without the final dot) on 127.0.0.1 over UDP and TCP; yields the port, for 0 a free one."""
    program = require("knotd", "knot")
    with open_folder("knot") as folder:
        port = port or free_port()
        lines = ["server:", f'  rundir: "{folder}"', f"  listen: 127.0.0.1@{port}"]
        lines += ["database:", f'  storage: "{folder}"', "zone:"]
        for name, records in zones.items():
            (folder / name).write_text(_zone_file(name, records))
            lines += [f"  - domain: {name}", f'    file: "{folder / name}"', "    journal-content: none"]
            lines += ["    zonefile-load: whole"]
        configuration = folder / "knot.conf"
        configuration.write_text("\n".join(lines) + "\n")
        with running([program, "-c", str(configuration)], log=folder / "log", ports=[port]):
            yield port


def _zone_file(zone: str, records: Zone) -> str:
    lines = [f"$ORIGIN {zone}.", "$TTL 60", "@ SOA ns hostmaster 1 60 60 60 60", "@ NS ns", "ns A 127.0.0.1"]
    lines += [f"{name} {record}" for name, found in records.items() for record in found]
    return "\n".join(lines) + "\n"
