"""The `gemel` command: what it offers, what it says when something is wrong, and with which exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner, Result

import gemel.__main__ as command
from gemel.adapters import key_files
from gemel.adapters.secret_files import create_private
from gemel.console.auditor.book import Finding
from gemel.console.auditor.verify import AuditReport
from gemel.sealing.stored_key import StoredKey
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import sha256
from tests.support.plans import EXAMPLE_TOML

HOLDS = AuditReport("hydraulics", "condition", 7, (), (), ("nothing",), {"frames": 3}, (), ())
BROKEN = AuditReport(
    *("hydraulics", "condition", 7),
    findings=(Finding("coordinator/rounds/000001/sum", "is [not] the sum", 1, "0x" + "ab" * 20),),
    not_kept=(Finding("coordinator/rounds/000002/frames", "not kept: no sum", 2),),
    not_covered=("nothing",),
    held={},
    rounds=(),
    lineage=(),
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command.app, [str(each) for each in arguments])


@pytest.mark.parametrize("arguments", [("--help",), ("audit", "--help"), ("keys", "--help"), ()])
def test_help_names_what_there_is(arguments):
    result = run(*arguments)
    words = {"audit": ["verify", "lineage"], "keys": ["create", "show", "rotate", "confirm", "destroy"]}
    for word in words.get(arguments[0] if arguments else "", ["audit", "found", "keys", "export-chain", "demo"]):
        assert word in result.output


def test_help_waits_for_no_heavy_library():
    code = "import sys, gemel.__main__; print(*{'torch', 'web3', 'tenseal', 'lime', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("verb", ["verify", "lineage"])
def test_directory_without_a_fleet_is_one_line_and_status_2(tmp_path, verb):
    result = run("audit", verb, tmp_path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("gemel: ")
    assert result.stderr.count("\n") == 1


def test_audit_that_holds_is_status_0_and_says_what_it_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr("gemel.console.auditor.verify.audit", lambda directory: HOLDS)
    result = run("audit", "verify", tmp_path)
    assert result.exit_code == 0
    assert "3 frames" in result.stdout
    assert "All holds" in result.stdout


def test_audit_with_findings_is_status_1_and_names_file_round_and_device(monkeypatch, tmp_path):
    monkeypatch.setattr("gemel.console.auditor.verify.audit", lambda directory: BROKEN)
    result = run("audit", "verify", tmp_path)
    assert result.exit_code == 1
    assert f"round 1, coordinator/rounds/000001/sum: is [not] the sum (device 0x{'ab' * 20})" in result.stdout
    assert "round 2, coordinator/rounds/000002/frames: not kept: no sum" in result.stdout
    assert "All holds" not in result.stdout


def test_audit_names_what_the_policy_excepts_although_all_holds(monkeypatch, tmp_path):
    excepted = replace(HOLDS, exceptions=("EXCEPTION: sums of two owners are opened. Allowed: the [board]",))
    monkeypatch.setattr("gemel.console.auditor.verify.audit", lambda _: excepted)
    result = run("audit", "verify", tmp_path)
    assert result.exit_code == 0
    assert "EXCEPTION: sums of two owners are opened. Allowed: the [board]\n" in result.stdout


def test_audit_as_json_is_the_whole_report(monkeypatch, tmp_path):
    import msgspec

    monkeypatch.setattr("gemel.console.auditor.verify.audit", lambda directory: BROKEN)
    result = run("audit", "verify", tmp_path, "--json")
    assert result.exit_code == 1
    assert msgspec.json.decode(result.stdout, type=AuditReport) == BROKEN


def test_keys_are_made_and_shown_without_their_secrets(tmp_path):
    path = tmp_path / "gateway-9.json"
    made = run("keys", "create", path)
    shown = run("keys", "show", path)
    keys = key_files.load(path)
    assert made.exit_code == shown.exit_code == 0
    assert made.stdout == shown.stdout == f"gateway-9: address {keys.identity.address}, box {keys.box}\n"
    assert keys.box_secret.hex() not in made.stdout


def test_key_file_is_never_written_over(tmp_path):
    path = tmp_path / "key.json"
    run("keys", "create", path)
    before = path.read_bytes()
    result = run("keys", "create", path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert path.read_bytes() == before


def test_rotated_keys_wait_until_they_are_confirmed(tmp_path):
    path = tmp_path / "gateway-9.json"
    former = key_files.create(path)
    rotated = run("keys", "rotate", path)
    assert rotated.exit_code == 0
    assert f"in use: address {former.identity.address}, box {former.box}\n" in rotated.stdout
    following = key_files.load(tmp_path / "gateway-9.next.json")
    assert f"next: address {following.identity.address}, box {following.box}\n" in rotated.stdout
    assert "to register" in rotated.stdout
    assert run("keys", "show", path).stdout.startswith(f"gateway-9: address {former.identity.address}")

    confirmed = run("keys", "confirm", path)
    assert confirmed.exit_code == 0
    assert "not compared with the chain" in confirmed.stdout
    assert f"to suspend on the chain: {former.identity.address}" in confirmed.stdout
    assert run("keys", "show", path).stdout.startswith(f"gateway-9: address {following.identity.address}")
    for secret in (former.box_secret, following.box_secret):
        assert secret.hex() not in rotated.stdout + confirmed.stdout


def test_confirming_makes_no_keys(tmp_path):
    path = tmp_path / "key.json"
    key_files.create(path)
    result = run("keys", "confirm", path)
    assert result.exit_code == 2
    assert "key.next.json" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_keys_are_destroyed_only_when_somebody_says_yes_and_it_is_said_what_is_left(tmp_path):
    path = tmp_path / "key.json"
    keys = key_files.create(path)
    key_files.prepare_next(path)
    asked = CliRunner().invoke(command.app, ["keys", "destroy", str(path)], input="n\n")
    assert asked.exit_code == 1
    assert key_files.load(path).identity.address == keys.identity.address
    result = run("keys", "destroy", path, "--yes")
    assert result.exit_code == 0
    assert not path.exists()
    for word in ("backups", "LoadCredential", "key.next.json", f"the chain counts {keys.identity.address}"):
        assert word in result.stdout


def test_sealing_keys_of_a_custodian_are_shown_by_round_and_fingerprint(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    stored = StoredKey(SealingPolicy("bfv-packed", 4, 0.1, 10, 100), 3234, b"public", b"the secret half")
    create_private(folder / "round-000007.key", stored.pack(), "sealing key")
    create_private(folder / "round-000008.key", b"GKEY of tomorrow", "sealing key")
    result = run("keys", "show", tmp_path)
    assert result.stdout == (
        f"round 7: bfv-packed, 3234 parameters, fingerprint {sha256(b'public')}\n"
        "round 8: malformed sealing key: too short\n"
    )
    (folder / "round-000007.key").chmod(0o640)
    refused = run("keys", "show", tmp_path)
    assert refused.exit_code == 2
    assert "round-000007.key: sealing key: readable by its owner only (chmod 600)" in refused.stderr


def test_directory_that_is_no_custodians_is_one_line_and_status_2(tmp_path):
    result = run("keys", "show", tmp_path)
    assert result.exit_code == 2
    assert "a custodian's state directory" in result.stderr


def test_founding_can_stop_after_the_keys(tmp_path):
    plan = tmp_path / "fleet.toml"
    plan.write_text(EXAMPLE_TOML)
    result = run("found", plan, tmp_path / "fleet", "--keys-only")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()][-1] == "gateway-4"
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == ["keys"]


def test_bad_plan_names_file_and_key(tmp_path):
    plan = tmp_path / "fleet.toml"
    plan.write_text(EXAMPLE_TOML.replace("validators = 3", "validators = 3\nstakes = [9]"))
    result = run("found", plan, tmp_path / "fleet")
    assert result.exit_code == 2
    assert result.stderr == f"gemel: {plan}: stakes: one for each of 3 validators, 1 given\n"
    assert not (tmp_path / "fleet").exists()


def test_budget_of_a_plan_is_shown_with_its_exception(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(EXAMPLE_TOML)
    done = run("budget", path, "--parameters", "37000")
    assert done.exit_code == 0
    assert "| bfv-packed | 8 | 4 | 1 | 37000 | 4 |" in done.stdout
    assert "at most 100 % of a sum" in done.stdout
    assert "EXCEPTION" not in done.stdout
    exception = 'minimum_owners = 2\ntwo_owners_exception = "the board"'
    path.write_text(EXAMPLE_TOML.replace("minimum_owners = 3", exception))
    assert "EXCEPTION: sums of two owners are opened" in run("budget", path, "--parameters", "37000").stdout


def test_budget_that_does_not_hold_is_one_line_and_status_2(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(EXAMPLE_TOML)
    done = run("budget", path, "--parameters", "5000000")
    assert done.exit_code == 2
    assert "max_frame_bytes" in done.stderr


def test_exporting_the_chain_of_no_fleet_is_status_2(tmp_path):
    result = run("export-chain", tmp_path)
    assert result.exit_code == 2
    assert "chain.json" in result.stderr


def test_demo_gets_its_options_as_they_stand_and_its_exit_status_counts(monkeypatch):
    class Module:
        @staticmethod
        def demo(rounds: int = 3, *, hold: bool = False) -> None:
            typer.echo(f"rounds {rounds}, hold {hold}")
            raise typer.Exit(7)

    monkeypatch.setattr(command, "import_module", lambda name: Module)
    result = run("demo", "--rounds", "30", "--hold")
    assert (result.stdout, result.exit_code) == ("rounds 30, hold True\n", 7)
    assert "--rounds" in run("demo", "--help").output
    assert run("demo", "--what").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--agents", "2"), "--agents: 3 to 8, not 2"),
        (("--rounds", "0"), "--rounds: 1 to 1000, not 0"),
        (("--funder", "payer.json"), "--funder: only with --rpc"),
    ],
)
def test_demo_that_cannot_be_run_is_refused_in_one_line(arguments, said):
    result = run("demo", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
