"""R29, I13: bad files. Each one exits 2, names file, line and key, and never ends in a traceback."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli.config import config
from tests.support.configuration import GOOD

# what is replaced in GOOD, by what, and what the problem's line says: place, key, words
SPOILT = [
    # not TOML
    ('"relay.example.org"', "relay.example.org", "config.toml:1:12", "", "not TOML"),
    ("[listener.gateway]", "[listener.gateway", "config.toml:9:18", "", "not TOML"),
    ("port = 2525", "port = 2525\nport = 2525", "config.toml:6:12", "", "cannot overwrite"),
    ("[listener.gateway]", "[listener.submission]", "config.toml:9:21", "", "cannot declare"),
    ("port = 2525", "port = 02525", "config.toml:5:9", "", "not TOML"),
    ("port = 2525", "port 2525", "config.toml:5:6", "", "not TOML"),
    ('"submission"', '"submission', "config.toml:4:19", "", "not TOML"),
    ("port = 2525", "port = " + "9" * 5000, "config.toml", "", "not TOML"),
    ("port = 2525", "port = " + "[" * 3000, "config.toml", "", "nested too deeply"),
    # keys that are not there
    ("port = 2525", "prot = 2525", "config.toml:5", "listener.submission.prot", "did you mean `port`?"),
    ("port = 2525", "Port = 2525", "config.toml:5", "listener.submission.Port", "did you mean `port`?"),
    ("hostname", "host_name", "config.toml:1", "host_name", "did you mean `hostname`?"),
    ("[route.all]", "[routes.all]", "config.toml:19", "routes", "did you mean `route`?"),
    ("[route.all]", "final_dot = '5s'\n[route.all]", "config.toml:19", "listener.capture.final_dot", "[timeout]"),
    ("[route.all]", "[tls]\n[route.all]", "config.toml:19", "tls", "unknown key"),
    # keys that must be there
    ("port = 2525\n", "", "config.toml:3", "listener.submission.port", "is missing"),
    ('role = "gateway"\n', "", "config.toml:9", "listener.gateway.role", "is missing"),
    ('hostname = "relay.example.org"', "", "config.toml", "hostname", "is missing"),
    ('hop = "mailbox"', "", "config.toml:19", "route.all.hop", "is missing"),
    # values of the wrong sort
    ("port = 2525", 'port = "2525"', "config.toml:5", "listener.submission.port", "write a whole number"),
    ("port = 2525", "port = true", "config.toml:5", "listener.submission.port", "write a whole number"),
    ("port = 2525", "port = 25.0", "config.toml:5", "listener.submission.port", "write a whole number"),
    ("port = 2525", "port = 65536", "config.toml:5", "listener.submission.port", "at most 65535"),
    ("port = 2525", "port = -1", "config.toml:5", "listener.submission.port", "at least 0"),
    ("port = 2525", "port = [2525]", "config.toml:5", "listener.submission.port", "write a whole number"),
    ('"relay.example.org"', "2026-01-01", "config.toml:1", "hostname", "write text in quotes"),
    ('["10.0.0.0/8"]', '"10.0.0.0/8"', "config.toml:6", "listener.submission.allow", "write a list"),
    ('host = ["mail.example.net"]', "host = [25]", "config.toml:23", "hop.mailbox.host", "write text in quotes"),
    ("[route.all]", "[[route.all]]", "config.toml:19", "route.all", "where a table [route.all] is wanted"),
    ('[route.all]\nhop = "mailbox"', "[route]\nall = 5", "config.toml:20", "route.all", "where a table"),
    ("[hop.mailbox]", "[log]\nlevel = 'loud'\n[hop.mailbox]", "config.toml:23", "log.level", '"debug"'),
    ("[hop.mailbox]", "[hop.mailbox]\ntls = true", "config.toml:23", "hop.mailbox.tls", "opportunistic"),
    ("[hop.mailbox]", "[hop.mailbox]\npassword = 5", "config.toml:23", "hop.mailbox.password", "in quotes"),
    # values nobody understands
    ('role = "gateway"', 'role = "mx"', "config.toml:10", "listener.gateway.role", '"gateway"'),
    ("10.0.0.0/8", "10.0.0.0/33", "config.toml:6", "listener.submission.allow", "write a network"),
    ("10.0.0.0/8", "10.0.0.1/8", "config.toml:6", "listener.submission.allow", '"10.0.0.0/8"'),
    ("10.0.0.0/8", "example.org", "config.toml:6", "listener.submission.allow", "write a network"),
    ("10.0.0.0/8", "fe80::1%eth0", "config.toml:6", "listener.submission.allow", "write a network"),
    ("@example.org", "example.org", "config.toml:7", "listener.submission.senders", '"@example.org"'),
    ("@example.org", "@exa mple.org", "config.toml:7", "listener.submission.senders", '"@example.org"'),
    ('["example.org"]', '["*"]', "config.toml:13", "listener.gateway.domains", "write a domain"),
    ('["example.org"]', '["example.org."]', "config.toml:13", "listener.gateway.domains", "write a domain"),
    ('"0.0.0.0"', '"eth0"', "config.toml:11", "listener.gateway.host", "write an IP address"),
    ("mail.example.net", "mail.example.net:25", "config.toml:23", "hop.mailbox.host", "without a port"),
    ("relay.example.org", "relay example.org", "config.toml:1", "hostname", "write a host name"),
    ("relay.example.org", "192.0.2.1", "config.toml:1", "hostname", "not an address"),
    ("relay.example.org", "rélay.example.org", "config.toml:1", "hostname", "ASCII"),
    ("relay.example.org", "relay.example.org\\r\\nX: y", "config.toml:1", "hostname", "write a host name"),
    ("[route.all]", "[timeout]\nconnect = 30\n[route.all]", "config.toml:20", "timeout.connect", '"25s"'),
    ("[route.all]", "[timeout]\nconnect = '30 sec'\n[route.all]", "config.toml:20", "timeout.connect", '"25s"'),
    ("[route.all]", "[timeout]\nconnect = '0s'\n[route.all]", "config.toml:20", "timeout.connect", "more than 0"),
    ("[route.all]", "[limit]\nmemory = '1 mb'\n[route.all]", "config.toml:20", "limit.memory", '"25 MiB"'),
    ("[route.all]", "[limit]\nrecipients = 99\n[route.all]", "config.toml:20", "limit.recipients", "at least 100"),
    ("[route.all]", '["route"."a b"]', "config.toml:19", "route.a b", "write a name of letters"),
    ("[route.all]", "[route.a__b]", "config.toml:19", "route.a__b", "write a name of letters"),
    # the gateway in full
    ("[route.all]", "[rate.all]\nper = 'mailbox'\n[route.all]", "config.toml:20", "rate.all.per", '"sender"'),
    ("[route.all]", "[rate.all]\nmessages = 5\n[route.all]", "config.toml:19", "rate.all.per", "is missing"),
    ("[route.all]", "[rate]\nper = 'ip'\n[route.all]", "config.toml:20", "rate.per", "a table [rate.per] is wanted"),
    ("[route.all]", "[rate.all]\nper = 'ip'\nwindow = '0s'\n[route.all]", "config.toml:21", "rate.all.window", "more"),
    ("[route.all]", "[rate.all]\nper = 'ip'\nmessages = -1\n[route.all]", "config.toml:21", "rate.all.messages", "0"),
    ("[route.all]", "[rate.all]\nper = 'ip'\n[route.all]", "config.toml:19", "rate.all", "limits nothing"),
    ("[route.all]", "[stress]\nabove = 101\n[route.all]", "config.toml:20", "stress.above", "at most 100"),
    ("[route.all]", "[stress]\ncommand = '0s'\n[route.all]", "config.toml:20", "stress.command", "more than 0"),
    ("[route.all]", "[stress]\ncommand = '1 h'\n[route.all]", "config.toml:20", "stress.command", "milder"),
    ("[route.all]", "[verify]\non_trouble = 'refuse'\n[route.all]", "config.toml:20", "verify.on_trouble", '"defer"'),
    ("[route.all]", "[verify]\nrefresh = '1 d'\n[route.all]", "config.toml:20", "verify.refresh", "unknown key"),
    (
        "[route.all]",
        "[verify]\npositive = '1 h'\n[route.all]",
        "config.toml:19",
        "verify.positive_refresh",
        "more than",
    ),
    (
        "[route.all]",
        "[masquerade.m]\nmatch = []\naddress = '@b.example'\n[route.all]",
        "config.toml:20",
        "masquerade.m.match",
        "is empty",
    ),
    (
        "[route.all]",
        "[masquerade.m]\nmatch = ['*']\naddress = '*'\n[route.all]",
        "config.toml:21",
        "masquerade.m.address",
        "to change the domain alone",
    ),
    (
        "[route.all]",
        "[masquerade.m]\nmatch = ['a.example']\naddress = '@b.example'\n[route.all]",
        "config.toml:20",
        "masquerade.m.match",
        "write an address",
    ),
    (
        'host = "0.0.0.0"',
        'host = "0.0.0.0"\nproxy_from = "10.0.0.1"',
        "config.toml:12",
        "listener.gateway.proxy_from",
        "write a list",
    ),
    (
        'host = "0.0.0.0"',
        'host = "0.0.0.0"\nproxy_from = ["lb.example.org"]',
        "config.toml:12",
        "listener.gateway.proxy_from",
        "write a network",
    ),
    (
        'host = "0.0.0.0"',
        'host = "0.0.0.0"\nproxy_from = ["::/0"]',
        "config.toml:12",
        "listener.gateway.proxy_from",
        "a good part of the Internet",
    ),
    (
        'host = "0.0.0.0"',
        'host = "0.0.0.0"\nrecipients = "none"',
        "config.toml:12",
        "listener.gateway.recipients",
        "does not exist",
    ),
    (
        'host = "0.0.0.0"',
        'host = "0.0.0.0"\nverify_recipients = "yes"',
        "config.toml:12",
        "listener.gateway.verify_recipients",
        "write true or false",
    ),
    (
        "[listener.capture]",
        '[listener.gateway.sni."mx.example.org"]\n[listener.capture]',
        "config.toml:15",
        "listener.gateway.sni.mx.example.org",
        "write a name of letters",
    ),
    (
        "[listener.capture]",
        "[listener.gateway.sni.other]\ncertificate = 'x.pem'\n[listener.capture]",
        "config.toml:15",
        "listener.gateway.sni.other.key",
        "is missing",
    ),
    (
        "[listener.capture]",
        "[listener.gateway.sni.other]\ncertifcate = 'x.pem'\n[listener.capture]",
        "config.toml:16",
        "listener.gateway.sni.other.certifcate",
        "did you mean `certificate`?",
    ),
    ('hop = "mailbox"', 'hop = "mailbox"\nsender = ["ann"]', "config.toml:21", "route.all.sender", "write an address"),
    ('hop = "mailbox"', 'hop = "mailbox"\nlogin = "ann"', "config.toml:21", "route.all.login", "write a list"),
    ("[hop.mailbox]", "[hop.mailbox]\nkind = 'pop3'", "config.toml:23", "hop.mailbox.kind", '"lmtp"'),
    ("[hop.mailbox]", "[hop.mailbox]\nkind = 'lmtp'", "config.toml:22", "hop.mailbox.port", "port 25"),
    ("[hop.mailbox]", "[hop.mailbox]\nidentify = 'proxy-v1'", "config.toml:23", "hop.mailbox.identify", '"proxy-v2"'),
    ("[hop.mailbox]", "[hop.mailbox]\noauth2 = true", "config.toml:23", "hop.mailbox.oauth2", "[hop.mailbox.oauth2]"),
    (
        "[hop.mailbox]",
        "[hop.mailbox.oauth2]\nclient_id = 'i'\n[hop.mailbox]",
        "config.toml:22",
        "hop.mailbox.oauth2.token_url",
        "is missing",
    ),
    (
        "[hop.mailbox]",
        "[hop.mailbox.oauth2]\ntoken_url = 'http://login.example.net/'\n[hop.mailbox]",
        "config.toml:23",
        "hop.mailbox.oauth2.token_url",
        "on loopback only",
    ),
    (
        "[hop.mailbox]",
        "[hop.mailbox.oauth2]\nmechanism = 'plain'\n[hop.mailbox]",
        "config.toml:23",
        "hop.mailbox.oauth2.mechanism",
        '"oauthbearer"',
    ),
    (
        "[hop.mailbox]",
        "[hop.mailbox.oauth2]\nclient_secret = 5\n[hop.mailbox]",
        "config.toml:23",
        "hop.mailbox.oauth2.client_secret",
        "in quotes",
    ),
    ("hostname", "postmaster = 'ann'\nhostname", "config.toml:1", "postmaster", "write an address"),
    # the checks of a gateway
    ("[route.all]", "[policy]\nmode = 'test'\n[route.all]", "config.toml:20", "policy.mode", '"monitor"'),
    ("[route.all]", "[policy]\nauthor = 'lax'\n[route.all]", "config.toml:20", "policy.author", '"tag"'),
    ("[route.all]", "[policy.spf]\nfail = 'reject'\n[route.all]", "config.toml:20", "policy.spf.fail", '"refuse"'),
    ("[route.all]", "[policy.spf]\npass = 'refuse'\n[route.all]", "config.toml:20", "policy.spf.pass", "unknown key"),
    # temporary trouble is never a permanent answer
    (
        "[route.all]",
        "[policy.spf]\ntemperror = 'refuse'\n[route.all]",
        "config.toml:20",
        "policy.spf.temperror",
        "defer",
    ),
    ("[route.all]", "[policy.arc]\nfail = 'refuse'\n[route.all]", "config.toml:20", "policy.arc.fail", '"defer"'),
    ("[route.all]", "[policy.dmarc]\nreject = 'no'\n[route.all]", "config.toml:20", "policy.dmarc.reject", "true or"),
    ("[route.all]", "[policy]\nskip = ['x']\n[route.all]", "config.toml:20", "policy.skip", "write a network"),
    (
        "[route.all]",
        "[policy]\nquarantine_hop = 'no'\n[route.all]",
        "config.toml:20",
        "policy.quarantine_hop",
        "[hop.no]",
    ),
    (
        "[route.all]",
        "[policy]\ntrusted_sealers = ['@a']\n[route.all]",
        "config.toml:20",
        "policy.trusted_sealers",
        "a domain",
    ),
    ("[route.all]", "[policy.forwarder.a]\n[route.all]", "config.toml:19", "policy.forwarder.a", "is nobody"),
    ("[route.all]", "[shadow.forwarder.a]\n[route.all]", "config.toml:19", "shadow.forwarder.a", "is nobody"),
    ("[route.all]", "[shadow]\nmode = 'monitor'\n[route.all]", "config.toml:20", "shadow.mode", "[policy]"),
    ("[route.all]", "[dns]\nnameservers = ['ns.a']\n[route.all]", "config.toml:20", "dns.nameservers", "address"),
    ("[route.all]", "[dns]\nnameservers = ['::1:99999']\n[route.all]", "config.toml:20", "dns.nameservers", "address"),
    ("[route.all]", "[journal]\nkeep = '0s'\n[route.all]", "config.toml:20", "journal.keep", "more than 0"),
]

# whole files
WHOLE = [
    (b"", "is empty"),
    (b" \n\t\n", "is empty"),
    (b"\xef\xbb\xbf" + GOOD.encode(), "byte order mark"),
    (GOOD.encode("utf-16"), "UTF-16"),
    (GOOD.replace("relay.example.org", "r\u00e9lay.example.org").encode("latin-1"), "is not UTF-8"),
    (b"\x00" * 100, "not TOML"),
    (b"# " + b"x" * 1024**2, "is longer than"),
    (b"\x89PNG\r\n\x1a\n", "is not UTF-8"),
    (b"{}", "not TOML"),
    (b"# nothing but a comment\n", "hostname: is missing"),
]


def check(folder: Path, content: bytes) -> list[str]:
    """What `relay config check` says of a file that it must refuse, by line."""
    file = folder / "config.toml"
    file.write_bytes(content)
    result = CliRunner().invoke(config, ["check", "--config", str(file)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    assert lines
    assert all(line.startswith(f"relay: {file}") for line in lines)
    return lines


@pytest.mark.parametrize(("old", "new", "place", "key", "words"), SPOILT)
def test_a_spoilt_file(tmp_path: Path, old: str, new: str, place: str, key: str, words: str) -> None:
    assert old in GOOD
    lines = check(tmp_path, GOOD.replace(old, new, 1).encode())
    start = f"relay: {tmp_path}/{place}: " + (f"{key}: " if key else "")
    named = [line for line in lines if line.startswith(start)]
    assert any(words in line for line in named), lines


@pytest.mark.parametrize(("content", "words"), WHOLE)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    assert any(words in line for line in check(tmp_path, content))


def test_the_good_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(GOOD)
    result = CliRunner().invoke(config, ["check", "--config", str(file)])
    assert (result.exit_code, result.stderr) == (0, "")


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    spoilt = GOOD.replace("2525", '"x"').replace("2526", "-1").replace("hop =", "hob =")
    keys = {line.split(": ")[2] for line in check(tmp_path, spoilt.encode())}
    assert keys == {"listener.submission.port", "listener.gateway.port", "route.all.hob", "route.all.hop"}


def test_the_table_is_long_enough() -> None:
    assert len(SPOILT) + len(WHOLE) >= 90


@pytest.mark.parametrize("path", ["missing.toml", ".", "x" * 300])
def test_a_path_that_holds_no_file(tmp_path: Path, path: str) -> None:
    result = CliRunner().invoke(config, ["check", "--config", str(tmp_path / path)])
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
