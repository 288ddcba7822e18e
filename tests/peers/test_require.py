"""A missing peer is said, with the apt line; where all peers must be there it is a failure."""

from __future__ import annotations

import pytest

from tests.support.peers import require


def test_a_missing_peer_skips_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-peer is not installed: apt install its-package"):
        require("no-such-peer", "its-package")


def test_a_missing_peer_fails_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="apt install its-package"):
        require("no-such-peer", "its-package")


def test_daemons_are_found_without_their_folder_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's PATH on Debian has no /usr/sbin; `chroot` of coreutils is always there."""
    monkeypatch.setenv("PATH", "/usr/bin")
    assert require("chroot", "coreutils").endswith("sbin/chroot")
