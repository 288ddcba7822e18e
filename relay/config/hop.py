"""`[hop.NAME]`: a next hop, how it is reached, and our login there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr

from relay.config.names import HostName, HttpsUrl, NextHost, OwnAddress
from relay.config.table import Table
from relay.config.units import Duration


class HopTls(StrEnum):
    NONE = "none"
    OPPORTUNISTIC = "opportunistic"  # STARTTLS if offered, any certificate
    REQUIRED = "required"  # STARTTLS, certificate verified
    IMPLICIT = "implicit"  # TLS from the first octet, certificate verified


class HopKind(StrEnum):
    SMTP = "smtp"
    LMTP = "lmtp"  # RFC 2033: a mailbox server that answers for each recipient
    INBOX = "inbox"


class Identify(StrEnum):
    """How a next hop of ours learns who the real client is."""

    NONE = "none"
    XCLIENT = "xclient"
    PROXY_V2 = "proxy-v2"


class SaslMechanism(StrEnum):
    XOAUTH2 = "xoauth2"
    OAUTHBEARER = "oauthbearer"


class OAuth2(Table):
    """A login by bearer token (RFC 6749): with `refresh_token` that flow, else client credentials."""

    token_url: HttpsUrl = Field(description="where tokens are asked for")
    client_id: str = Field(description="our name there")
    client_secret: SecretStr | None = Field(
        None, examples=["…"], description="better as client_secret_file, or in the environment"
    )
    client_secret_file: Path | None = Field(
        None, examples=["client-secret"], description="file that holds it, readable by its owner only"
    )
    refresh_token: SecretStr | None = Field(
        None, examples=["…"], description="better as refresh_token_file, or in the environment"
    )
    refresh_token_file: Path | None = Field(
        None, examples=["refresh-token"], description="file that holds it, readable by its owner only"
    )
    scope: str = Field("", description="e.g. https://outlook.office365.com/.default or https://mail.google.com/")
    mechanism: SaslMechanism = Field(SaslMechanism.XOAUTH2, description="xoauth2 | oauthbearer (RFC 7628)")


class Hop(Table):
    kind: HopKind = Field(HopKind.SMTP, description="smtp | lmtp | inbox (the relay's own store)")
    host: tuple[NextHost, ...] = Field(
        (), examples=[["smtp.example.net"]], description="hosts, tried in turn until one takes the connection"
    )
    port: int = Field(25, ge=1, le=65535, description="the hosts' port")
    tls: HopTls = Field(HopTls.OPPORTUNISTIC, description="none | opportunistic | required | implicit")
    ca: Path | None = Field(
        None, examples=["ca.pem"], description="PEM file with the authorities to trust instead of the system's"
    )
    certificate: Path | None = Field(None, examples=["client.pem"], description="PEM file with our client certificate")
    key: Path | None = Field(None, examples=["client.key"], description="PEM file with its key")
    username: str | None = Field(
        None, examples=["relay"], description="login name; needs tls required or implicit, or loopback"
    )
    password: SecretStr | None = Field(
        None, examples=["…"], description="better as password_file, or in the environment"
    )
    password_file: Path | None = Field(
        None, examples=["password"], description="file that holds the password, readable by its owner only"
    )
    oauth2: OAuth2 | None = Field(
        None,
        examples=[{"token_url": "https://login.example.net/token", "client_id": "relay"}],
        description="log in as `username` with a token instead of a password",
    )
    identify: Identify = Field(
        Identify.NONE, description="none | xclient | proxy-v2: tell a server of ours who the client is"
    )
    ehlo: HostName | None = Field(
        None, examples=["relay.example.org"], description="name to say in EHLO; default: hostname"
    )
    source_address: OwnAddress | None = Field(None, examples=["192.0.2.1"], description="local address to connect from")
    connections: int = Field(20, ge=1, description="connections at most, over all hosts of this hop")
    idle: Duration = Field(30.0, description="a kept connection is closed after this long without use")
    messages_per_connection: int = Field(100, ge=1, description="then the connection is closed")
