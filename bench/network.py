"""A network of the bench's own: the program starts itself again in new network and mount namespaces.

In there 192.0.2.1 (RFC 5737) is an address of the loopback interface, every name is asked of 127.0.0.1:53, and
nothing leaves the machine. Peers need that: SPF libraries wave 127.0.0.1 through without any work, and OpenDMARC
and policyd-spf ask whom /etc/resolv.conf names.
"""

from __future__ import annotations

import os
import shutil
import sys

HOST = "192.0.2.1"  # peers listen here, so this is the clients' address too
NETWORK = "192.0.2.0/24"
_INSIDE = "BENCH_NETWORK"
_SCRIPT = f"""
set -e
ip link set lo up
ip address add {HOST}/32 dev lo
file=$(mktemp)
echo 'nameserver 127.0.0.1' >"$file"
chmod 644 "$file"
mount --bind "$file" /etc/resolv.conf
rm "$file"
exec "$@"
"""


def enter(arguments: list[str]) -> None:
    """Return inside that network; outside, `python -m bench ARGUMENTS` takes this process over."""
    if os.environ.pop(_INSIDE, None):
        return
    if os.geteuid() != 0:
        sys.exit("this bench makes a network of its own and starts Postfix: both need root")
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: apt install {package}")
    os.environ[_INSIDE] = "yes"
    again = [sys.executable, "-m", "bench", *arguments]
    os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-c", _SCRIPT, "sh", *again])
