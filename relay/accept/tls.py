"""The TLS of a listener: one context, and further certificates by the name the client asks for.

STANDARDS  RFC 8996 (TLS 1.2 at least), RFC 6066 §3 (the name asked for), RFC 9525 §6.3 (a wildcard is
           the whole leftmost label).
TRUSTS     the files, which are the operator's; not the name, which only picks among them.
FAILS      ConfigError naming the certificate that cannot be used.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from relay.config.files import chain
from relay.config.models import Listener, ListenTls
from relay.errors import ConfigError, Problem


def context(name: str, settings: Listener) -> ssl.SSLContext | None:
    """What the listener `name` needs for its TLS, read from the files now; None without TLS.

    Each listener has its own: a session ticket of one is worth nothing at another.
    """
    if settings.tls is ListenTls.NONE:
        return None
    key = f"listener.{name}"
    if settings.certificate is None:
        raise ConfigError(Problem("", f"{key}.certificate", "is needed for TLS"))
    made = _context(key, settings.certificate, settings.key)
    by_name: dict[str, ssl.SSLContext] = {}
    for label, pair in settings.sni.items():
        other = _context(f"{key}.sni.{label}", pair.certificate, pair.key)
        for host in _names(f"{key}.sni.{label}", pair.certificate):
            by_name.setdefault(host, other)
    if by_name:
        made.sni_callback = lambda connection, asked, _: _choose(connection, asked, by_name)
    return made


def _choose(connection: ssl.SSLObject, asked: str | None, by_name: Mapping[str, ssl.SSLContext]) -> None:
    """Answer with the certificate for `asked`; the listener's own stays where none has that name."""
    host = (asked or "").lower().removesuffix(".")
    if found := by_name.get(host) or by_name.get(f"*.{host.partition('.')[2]}"):
        connection.context = found


def _context(key: str, certificate: Path, private: Path | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    try:
        made.load_cert_chain(certificate, private)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(Problem("", f"{key}.certificate", f"cannot be used: {error}")) from error
    return made


def _names(key: str, certificate: Path) -> list[str]:
    """The DNS names the certificate is for."""
    try:
        leaf = chain(certificate.read_bytes())[0]
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [host.lower() for host in found.value.get_values_for_type(x509.DNSName)]
    except (OSError, ValueError, x509.ExtensionNotFound):
        names = []
    if not names:
        raise ConfigError(Problem("", f"{key}.certificate", f"{certificate} names no host, so nobody can ask for it"))
    return names
