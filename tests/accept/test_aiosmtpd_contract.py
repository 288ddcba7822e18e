"""What we touch of aiosmtpd 1.4.6 that it does not promise: a new version that moves it fails here."""

import inspect

import aiosmtpd
import pytest
from aiosmtpd import smtp

from relay.accept.channel import Channel
from relay.accept.smtp import Smtp


def test_the_version_we_read() -> None:
    assert aiosmtpd.__version__.startswith("1.4.")


def test_its_ehlo_and_helo_use_only_what_we_set_ourselves() -> None:
    """`smtp_EHLO` and `smtp_HELO` run on class attributes of Channel, since SMTP.__init__ does not run."""
    used = {
        name
        for method in (smtp.SMTP.smtp_EHLO, smtp.SMTP.smtp_HELO, smtp.SMTP._call_handler_hook)
        for name in method.__code__.co_names
        if name.startswith("_") or name in inspect.getsource(smtp.SMTP.__init__)
    }
    ours = set(vars(Channel)) | set(vars(Smtp)) | {"hostname", "session", "envelope", "_call_handler_hook"}
    attributes = {name for name in used if f"self.{name}" in inspect.getsource(smtp.SMTP)}
    # The first is touched only with a data_size_limit or SMTPUTF8, the second only where it exists.
    assert attributes - ours <= {"command_size_limits", "ehlo_hook"}
    assert not hasattr(Smtp, "ehlo_hook")


def test_no_command_of_its_own_is_reachable() -> None:
    """Each of its `smtp_*` is ours or is not in our table."""
    from relay.accept.smtp import _COMMANDS

    theirs = {name.removeprefix("smtp_") for name in dir(smtp.SMTP) if name.startswith("smtp_")}
    for verb, method in _COMMANDS.items():
        assert method.__module__ in ("relay.accept.smtp", "relay.accept.upload"), verb
    assert theirs - set(_COMMANDS) == {"EXPN"}


def test_hooks_have_the_shape_it_calls() -> None:
    assert inspect.iscoroutinefunction(Channel._handle_hooks["EHLO"])
    assert list(inspect.signature(smtp.SMTP._call_handler_hook).parameters) == ["self", "command", "args"]
    assert Channel._ehlo_hook_ver == "new"


def test_every_callback_of_a_transport_is_our_own() -> None:
    """Its own would start timers, log commands, or cancel the handler."""
    callbacks = ["connection_made", "connection_lost", "data_received", "eof_received"]
    for name in [*callbacks, "pause_writing", "resume_writing", "push", "_handle_client", "_set_rset_state"]:
        assert getattr(Smtp, name).__module__.startswith("relay.accept."), name


def test_its_logger_keeps_quiet() -> None:
    assert not smtp.log.isEnabledFor(20)


def test_a_session_may_be_made_without_a_protocol() -> None:
    session = smtp.Session(loop=None)
    assert session.host_name is None
    assert session.extended_smtp is False
    with pytest.raises(AttributeError):
        session.ours  # noqa: B018
