"""A party's secrets on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemel.adapters import key_files
from gemel.errors import ConfigError


def test_created_keys_are_private_and_load_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = key_files.create(path)
    loaded = key_files.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (loaded.identity.address, loaded.box, loaded.box_secret) == (
        made.identity.address,
        made.box,
        made.box_secret,
    )
    assert made.box_secret.hex() not in repr(made)
    assert made.identity.address in repr(made)


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="free"):
        key_files.create(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    key_files.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        key_files.load(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"identity": "00", "box": "11"}',
        json.dumps({"identity": "0" * 64, "box": "1" * 64}),
        json.dumps({"identity": "1" * 64, "box": "12"}),
        json.dumps({"identity": "x" * 64, "box": "1" * 64}),
    ],
)
def test_file_that_holds_no_keys_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ConfigError, match="64 hex digits") as refused:
        key_files.load(path)
    assert "111" not in str(refused.value)


def test_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        key_files.load(tmp_path / "keys.json")


def test_systemd_credential_of_the_same_name_is_preferred(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    path = tmp_path / "keys.json"
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert key_files.find(path, environment) == path
    (credentials / "keys.json").touch()
    assert key_files.find(path, environment) == credentials / "keys.json"
    assert key_files.find(path, {}) == path
