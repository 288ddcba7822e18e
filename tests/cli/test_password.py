"""`relay password`: what it prints is what the login file takes."""

from pathlib import Path

import argon2
import pytest
from click.testing import CliRunner

from relay.accept.login import read_file
from relay.cli.password import password


def test_the_hash_is_argon2id_and_fits_the_password() -> None:
    result = CliRunner().invoke(password, input="correct horse\n")
    assert result.exit_code == 0
    assert result.output.startswith("$argon2id$")
    assert argon2.PasswordHasher().verify(result.output.strip(), "correct horse")


def test_the_line_goes_into_the_login_file_as_it_is(tmp_path: Path) -> None:
    arguments = ["--name", "app", "--sender", "app@example.org", "--sender", "@example.net"]
    result = CliRunner().invoke(password, arguments, input="correct horse\n")
    file = tmp_path / "logins"
    file.touch(mode=0o600)
    file.write_text(result.output)
    hashed, senders = read_file(file)["app"]
    assert senders == ("app@example.org", "@example.net")
    assert argon2.PasswordHasher().verify(hashed, "correct horse")


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        ([], "", "empty"),
        (["--sender", "a@example.org"], "x\n", "--name"),
        (["--name", "a b"], "x\n", "printable word"),
        (["--name", "app", "--sender", "example.org"], "x\n", "neither an address"),
    ],
)
def test_wrong_use_exits_2(arguments: list[str], typed: str, said: str) -> None:
    result = CliRunner().invoke(password, arguments, input=typed)
    assert result.exit_code == 2
    assert said in result.output
