"""The files of a Besu network: what can be checked of them without Besu."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import rlp
from eth_hash.auto import keccak
from typer.testing import CliRunner

from gemel.console import besu
from gemel.console.command import app
from gemel.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "besu"
FOUR = tuple(f"0x{digit * 40}" for digit in "3142")
ELECTION = "0x" + "ab" * 20


def test_extra_data_decodes_to_exactly_the_validators_in_rising_order() -> None:
    vanity, validators, vote, round_, seals = rlp.decode(bytes.fromhex(besu.extra_data(FOUR)[2:]))
    assert vanity == bytes(32)
    assert ["0x" + each.hex() for each in validators] == sorted(FOUR)
    assert (vote, round_, seals) == ([], b"", [])


def test_extra_data_of_no_validators_is_what_besu_documents_for_contract_mode() -> None:
    assert besu.extra_data(()) == "0xe5a00000000000000000000000000000000000000000000000000000000000000000c0c080c0"


def test_genesis_has_the_forks_that_our_bytecode_needs_and_no_price_of_gas() -> None:
    config = besu.genesis(4242, FOUR)["config"]
    assert config["chainId"] == 4242
    assert config["cancunTime"] == config["shanghaiTime"] == config["londonBlock"] == 0
    assert config["zeroBaseFee"] is True
    assert "contractSizeLimit" not in config
    assert config["qbft"]["requesttimeoutseconds"] > config["qbft"]["blockperiodseconds"]


@pytest.mark.parametrize(
    ("chain_id", "validators", "period_s"),
    [
        (0, FOUR, 2),
        (4242, FOUR[:3], 2),
        (4242, (*FOUR[:3], FOUR[0]), 2),
        (4242, (*FOUR, FOUR[0]), 2),
        (4242, (*FOUR[:3], "0x12"), 2),
        (4242, FOUR, 0),
    ],
)
def test_genesis_of_a_network_that_could_not_stand_is_refused(
    chain_id: int, validators: tuple[str, ...], period_s: int
) -> None:
    with pytest.raises(ConfigError):
        besu.genesis(chain_id, validators, block_period_s=period_s)


def test_transition_hands_the_seats_to_the_election_and_changes_nothing_else() -> None:
    before = besu.genesis(4242, FOUR)
    after = besu.with_election(before, ELECTION, 1800)
    change = {"block": 1800, "validatorselectionmode": "contract", "validatorcontractaddress": ELECTION}
    assert after["config"].pop("transitions") == {"qbft": [change]}
    assert after == before


@pytest.mark.parametrize(("election", "block"), [("0x12", 1800), (ELECTION, 0)])
def test_transition_to_no_contract_or_no_block_to_come_is_refused(election: str, block: int) -> None:
    with pytest.raises(ConfigError):
        besu.with_election(besu.genesis(4242, FOUR), election, block)


def test_second_transition_is_refused() -> None:
    with pytest.raises(ConfigError, match="transitions"):
        besu.with_election(besu.with_election(besu.genesis(4242, FOUR), ELECTION, 9), ELECTION, 10)


def test_commands_write_a_genesis_and_its_transition(tmp_path: Path) -> None:
    run = CliRunner()
    written = run.invoke(app, ["besu", "genesis", "--chain-id", "4242", "--validators", ",".join(FOUR)])
    assert json.loads(written.stdout) == besu.genesis(4242, FOUR)
    file = tmp_path / "genesis.json"
    file.write_text(written.stdout)
    moved = run.invoke(app, ["besu", "transition", str(file), "--election", ELECTION, "--block", "7"])
    assert json.loads(moved.stdout) == besu.with_election(besu.genesis(4242, FOUR), ELECTION, 7)


def test_election_answers_what_besu_asks() -> None:
    abi = json.loads((REPOSITORY / "contracts" / "generated" / "Election.json").read_text())["abi"]
    (function,) = [each for each in abi if each.get("name") == "getValidators"]
    assert (function["inputs"], [each["type"] for each in function["outputs"]]) == ([], ["address[]"])
    assert keccak(b"getValidators()")[:4].hex() == "b7ab4db5"


def test_settings_name_files_that_the_folder_or_the_runbook_has() -> None:
    settings = tomllib.loads((FOLDER / "node.toml").read_text())
    for key in ("static-nodes-file", "permissions-nodes-config-file"):
        assert (FOLDER / Path(settings[key]).name).is_file()
    assert Path(settings["genesis-file"]).name == "genesis.json"
    assert settings["min-gas-price"] == 0
    assert settings["rpc-http-host"] == settings["rpc-ws-host"] == "127.0.0.1"
    assert json.loads((FOLDER / "static-nodes.json").read_text()) == []
    assert tomllib.loads((FOLDER / "permissions.toml").read_text()) == {"nodes-allowlist": []}
    unit = (FOLDER / "besu.service").read_text()
    assert "--config-file=/etc/gemel/besu/node.toml" in unit
    assert "LoadCredential=node.key:" in unit


def test_folder_holds_no_secret() -> None:
    for file in FOLDER.iterdir():
        assert not re.search(r"\b(0x)?[0-9a-fA-F]{64}\b", file.read_text()), file.name
