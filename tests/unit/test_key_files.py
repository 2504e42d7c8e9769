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


# --- new keys for a party --------------------------------------------------------------------------


def test_next_keys_wait_beside_those_in_use_and_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway-1.json"
    made = key_files.create(path)
    in_use, following = key_files.prepare_next(path)
    again, the_same = key_files.prepare_next(path)
    waiting = tmp_path / "gateway-1.next.json"
    assert waiting.stat().st_mode & 0o777 == 0o600
    assert in_use.identity.address == again.identity.address == made.identity.address
    assert following.identity.address == the_same.identity.address != made.identity.address
    assert following.box == the_same.box != made.box
    assert key_files.load(path).identity.address == made.identity.address


def test_confirmed_keys_take_the_place_and_the_former_are_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    former, following = (key_files.create(path), key_files.prepare_next(path)[1])
    retired = key_files.confirm_next(path)
    assert retired == tmp_path / "key.retired.json"
    assert key_files.load(path).identity.address == following.identity.address
    assert key_files.load(retired).identity.address == former.identity.address
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "key.json": 0o600,
        "key.retired.json": 0o600,
    }


def test_keys_are_not_confirmed_over_former_ones_that_are_still_kept(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    key_files.create(path)
    key_files.prepare_next(path)
    key_files.confirm_next(path)
    key_files.prepare_next(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="destroy the former keys first"):
        key_files.confirm_next(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_nothing_to_confirm_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    key_files.create(path)
    with pytest.raises(ConfigError, match=r"key\.next\.json"):
        key_files.confirm_next(path)
    assert [file.name for file in tmp_path.iterdir()] == ["key.json"]


def test_crash_between_the_two_steps_of_confirming_loses_no_key(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    former, following = (key_files.create(path), key_files.prepare_next(path)[1])
    retired = key_files.retired_path(path)
    retired.hardlink_to(path)  # as far as it came
    for name in (path, retired):
        with pytest.raises(ConfigError, match="gemel keys confirm"):
            key_files.destroy(name)  # its bytes are those in use
    assert key_files.load(path).identity.address == former.identity.address
    key_files.confirm_next(path)
    assert key_files.load(path).identity.address == following.identity.address
    assert key_files.destroy(retired).identity.address == former.identity.address


def test_destroyed_key_file_was_overwritten_before_it_went(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    made = key_files.create(path)
    content = path.read_bytes()
    with path.open("rb") as witness:  # keeps the bytes in reach when their name is gone
        assert key_files.destroy(path).identity.address == made.identity.address
        assert witness.read() == b"\0" * len(content)
    assert not path.exists()


def test_what_is_no_key_file_is_not_destroyed(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch(mode=0o600)
    path.write_bytes(b"\xff\xd8" * 100)
    with pytest.raises(ConfigError, match="64 hex digits"):
        key_files.destroy(path)
    assert path.read_bytes() == b"\xff\xd8" * 100


def test_next_keys_open_to_others_are_not_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    former = key_files.create(path)
    key_files.prepare_next(path)
    key_files.next_path(path).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        key_files.confirm_next(path)
    assert key_files.load(path).identity.address == former.identity.address
