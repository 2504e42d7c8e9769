"""plant.toml: who else is at the broker, as an operator writes it down."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import tomli_w

from gemel.adapters.plant_file import read_plant
from gemel.errors import ConfigError
from gemel.wire.entitlements import entitlements
from tests.support.parties import PLANT, TRUST

SHIPPED = Path(__file__).parents[2] / "deploy/systemd/etc/chain-listener/plant.toml"


def test_parties_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    path.write_text(tomli_w.dumps({"party": [msgspec.to_builtins(party) for party in PLANT]}))
    assert read_plant(path) == PLANT


def test_shipped_example_gives_everybody_rights() -> None:
    plant = read_plant(SHIPPED)
    wanted = {one.user: one.rights for one in entitlements(TRUST, plant, shared={}, suspended=frozenset())}
    assert all(wanted[party.user] for party in plant)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("party = 3", "party"),
        ("[[party]]\nrole = 'king'\nuser = 'a'", r"party\[0\]\.role"),
        ("[[party]]\nrole = 'dashboard'\nuser = 'a/b'", r"party\[0\]\.user"),
        ("[[party]]\nrole = 'dashboard'\nuser = 'a'\nsite_s = ['bonn']", "site_s"),
        ("[[parties]]\nrole = 'dashboard'", "parties"),
        ("", "party"),
        ("[[party]", "Expected"),
        ("\udcff", "plant"),
    ],
)
def test_file_that_is_wrong_is_named_with_its_key_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "plant.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=why) as refused:
        read_plant(path)
    assert str(refused.value).startswith(f"{path}: plant: ")
    assert "\n" not in str(refused.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_plant(tmp_path / "plant.toml")
