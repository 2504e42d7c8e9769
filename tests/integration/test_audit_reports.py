"""Reports on a small real state: a model's lineage, a round, a device, orders; and what is asked for wrongly."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gemel.__main__ import app
from gemel.adapters import key_files
from gemel.adapters.chain_export import decode_export, encode_export
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.console.auditor.verify import audit
from gemel.console.fleet_files import read_trust
from gemel.wire import envelope
from gemel.wire.attestations import ModelAttestation, Vote, attest
from gemel.wire.envelope import Kind
from gemel.wire.messages import SignedVote, encode
from tests.support.kept_state import ROLLBACK_REPORT, build

EXPORT = "chain-export.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept")
    asyncio.run(build(directory))
    return directory


@pytest.fixture
def kept(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "kept"))


def said(*arguments: object) -> Any:
    """What `gemel audit ... --json` says."""
    result = CliRunner().invoke(app, ["audit", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    return result.exit_code, result.output


def address_of(directory: Path, name: str) -> str:
    return key_files.load(directory / "keys" / f"{name}.json").identity.address


# --- lineage --------------------------------------------------------------------------------------


def test_lineage_of_the_model_in_use_leads_to_m0_and_names_what_was_given_up(original):
    report = said("lineage", original)
    assert [(m["deployment"], m["round"], m["state"]) for m in report["ancestry"]] == [
        (1, 0, "deployed"),
        (2, 1, "deployed"),
    ]
    m0, m1 = report["ancestry"]
    assert report["model"] == report["in_use"] == m1["model"]
    assert (m0["parent"], m1["parent"]) == ("0" * 64, m0["model"])
    assert m1["approved_weight"] == m1["total_weight"] >= m1["quorum_weight"] > m1["total_weight"] // 2
    (given_up,) = report["given_up"]
    back = given_up["rolled_back"]
    assert (back["report"], back["mark"]["sender"]) == (ROLLBACK_REPORT, address_of(original, "operator"))
    assert (given_up["state"], back["deployment"], back["agents"]) == ("rolled_back", 4, 3)


def test_lineage_of_a_rolled_back_model_is_found_by_the_beginning_of_its_digest(original):
    model = said("lineage", original)["given_up"][0]["model"]
    report = said("lineage", original, model[:8])
    assert [m["round"] for m in report["ancestry"]] == [0, 1, 3]
    assert report["model"] == model != report["in_use"]
    assert refused("lineage", original, model)[1].count("rolled back to") == 1


def test_model_that_was_refused_has_no_lineage(original):
    refused_model = said("round", original, 2)["chain"]["model"]
    code, output = refused("lineage", original, refused_model[:10])
    assert code == 1
    assert f"model {refused_model} was never approved (round 2: rejected, no_quorum)" in output.replace("\n", " ")


def test_model_that_nobody_proposed_has_no_lineage(original):
    code, output = refused("lineage", original, "beef" * 16)
    assert (code, "was ever proposed" in output) == (1, True)


def test_beginning_that_several_models_share_is_ambiguous(original):
    from gemel.console.auditor.source import one_of
    from gemel.errors import ConfigError

    with pytest.raises(ConfigError, match="2 begin with these"):
        one_of("ab", ["abc", "abd", "b"], "model")
    assert one_of("abc", ["abc", "abd"], "model") == "abc"
    code, output = refused("device", original, "0x")
    assert (code, "more digits" in output) == (2, True)


# --- rounds ---------------------------------------------------------------------------------------


def test_round_names_who_confirmed_committed_and_revealed_and_each_transaction(original):
    report = said("round", original, 3)
    seats = {seat["validator"]: seat for seat in report["electorate"]}
    names = ("validator-1", "validator-2", "validator-3")
    ordered = [seats[address_of(original, name)] for name in names]
    assert [seat["confirmed"] for seat in ordered] == [True, True, False]
    assert [seat["committed"] for seat in ordered] == [True] * 3
    assert [seat["vote"]["accuracy"] for seat in ordered] == [640_000, 650_000, 200_000]
    assert [seat["vote"]["approved"] for seat in ordered] == [True, True, False]
    assert ordered[0]["points"] == 1_000_000  # at the median
    assert (report["state"], report["verdict"], report["chain"]["accuracy"]) == ("rolled_back", "approved", 640_000)
    assert report["approved_weight"] < report["total_weight"]
    assert report["claimed"] == 640_000
    (device,) = report["trust"]
    assert (device["device"], device["outcome"]) == (address_of(original, "gateway-1"), 500_000)
    assert device["score"] < device["before"]
    steps = [(event, step["mark"]["sender"]) for step in report["steps"] for event in step["events"]]
    assert steps[0] == ("RoundOpened", address_of(original, "coordinator"))
    assert ("SumOpened", address_of(original, "custodian")) in steps
    assert ("RoundDeployed", address_of(original, "listener")) in steps
    assert steps[-1] == ("RolledBack", address_of(original, "operator"))
    assert all(step["mark"]["block"] > 0 for step in report["steps"])


def test_round_says_why_it_was_refused_or_given_up(original):
    assert "of the stake approve" in said("round", original, 2)["why"]
    assert said("round", original, 4)["why"] == "given up by the coordinator: no sealing context"


def test_unknown_round_is_said_to_be_none(original):
    code, output = refused("round", original, 9)
    assert (code, "one of the chain's: 0 to 4" in output) == (2, True)


# --- devices and orders -----------------------------------------------------------------------------


def test_device_shows_its_rounds_score_rewards_and_orders(original):
    address = address_of(original, "gateway-1")
    report = said("device", original, address)
    assert (report["role"], report["registered"]["sender"]) == ("agent", address_of(original, "operator"))
    assert report["suspended"] is None
    assert [(r["round"], r["listed"], r["level"]) for r in report["rounds"]] == [
        (1, True, 2),
        (2, True, 2),
        (3, True, 2),
    ]
    assert report["rounds"][2]["reported"]["reward"] == report["earned"] == report["rewards"]["claimed"] > 0
    assert report["rewards"]["waiting"] == 0
    (order,) = report["orders"]
    assert [step["state"] for step in order["steps"]] == ["open", "acknowledged"]
    assert said("orders", original) == [order]
    assert said("device", original, address_of(original, "gateway-2"))["orders"] == []


def test_export_alone_says_what_the_chain_knows(original, tmp_path):
    export = tmp_path / "alone.json"
    shutil.copy(original / EXPORT, export)
    report = said("device", export, address_of(original, "gateway-1")[:12])
    assert [(r["round"], r["listed"], r["level"]) for r in report["rounds"]] == [(3, None, None)]
    assert said("round", export, 1) == said("round", original, 1)
    code, output = refused("round", export, 1, "--task", "other")
    assert (code, "a task of this chain, by --task: condition" in output) == (2, True)


def test_list_that_was_changed_does_not_count_as_kept(kept):
    path = kept / "coordinator/rounds/000001/roster"
    path.write_bytes(path.read_bytes().replace(b'"weight":120', b'"weight":121'))
    report = said("device", kept, address_of(kept, "gateway-1"))
    assert [r["listed"] for r in report["rounds"]] == [None, True, True]


def test_unknown_device_is_said_to_be_none(original):
    code, output = refused("device", original, "0x" + "77" * 20)
    assert (code, "a registered address" in output) == (2, True)


@pytest.mark.parametrize("arguments", [("lineage",), ("round", 1), ("round", 3), ("orders",)])
def test_every_report_has_a_table(original, arguments):
    name, *rest = arguments
    code, output = refused(name, original, *rest)
    assert (code, "block" in output) == (0, True)


# --- what is spoiled --------------------------------------------------------------------------------


def test_spoiled_export_is_reported_from_what_is_left_and_fails(kept):
    export = decode_export((kept / EXPORT).read_bytes())
    left = msgspec.structs.replace(export, transactions=export.transactions[:-3] + export.transactions[-2:])
    (kept / EXPORT).write_bytes(encode_export(left))
    code, output = refused("lineage", kept)
    assert (code, "findings in the export" in output) == (1, True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_export_that_cannot_be_read_is_one_line(kept, content):
    (kept / EXPORT).write_bytes(content)
    for command in (("lineage",), ("round", "1"), ("device", "0x"), ("orders",)):
        code, output = refused(command[0], kept, *command[1:])
        assert code == 2
        assert EXPORT in output


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_byte_in_the_export_never_crashes_a_report(original, tmp_path, data):
    spoiled = bytearray((original / EXPORT).read_bytes())
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
    export = tmp_path / "spoiled.json"
    export.write_bytes(spoiled)
    commands = (("lineage",), ("round", 3), ("device", address_of(original, "gateway-1")), ("orders",))
    name, *rest = data.draw(st.sampled_from(commands))
    result = CliRunner().invoke(app, ["audit", name, str(export), *map(str, rest)])
    assert result.exit_code in (0, 1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("gone", ["Trust", "Election", "Maintenance"])
def test_export_that_names_a_contract_otherwise_is_no_crash(kept, gone):
    (kept / EXPORT).write_bytes((kept / EXPORT).read_bytes().replace(f'"{gone}"'.encode(), b'"Nothing"'))
    for command in (("lineage",), ("round", "1"), ("device", address_of(kept, "gateway-1"))):
        assert refused(command[0], kept, *command[1:])[0] in (1, 2)


# --- the log of deployments -------------------------------------------------------------------------


def change_log(directory: Path, statement: str) -> None:
    with sqlite3.connect(directory / "listener" / "records.sqlite") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


def log_findings(directory: Path) -> list[str]:
    return [f.what for f in audit(directory).findings if f.where == "listener/records.sqlite"]


def test_log_of_deployments_is_compared_with_chain_and_anchors_and_left_as_it_was(kept):
    before = sorted((path.name, path.read_bytes()) for path in (kept / "listener").iterdir())
    report = audit(kept)
    assert report.holds, report.findings
    assert (report.held["deployment log entries"], report.held["anchored logs"]) == (3, 1)
    assert sorted((path.name, path.read_bytes()) for path in (kept / "listener").iterdir()) == before


def test_missing_entry_of_the_log_is_named(kept):
    change_log(kept, "DELETE FROM records WHERE kind = 'deployment-log' AND key LIKE '%2'")
    assert log_findings(kept) == ["entry 2 is missing, though its root is on chain"]


def test_changed_time_in_an_entry_of_the_log_does_not_make_the_anchored_root(kept):
    old, new = "'\"time_ms\":1'", "'\"time_ms\":2'"
    value = f"CAST(replace(CAST(value AS TEXT), {old}, {new}) AS BLOB)"
    change_log(kept, f"UPDATE records SET value = {value} WHERE kind = 'deployment-log' AND key LIKE '%1'")
    (line,) = log_findings(kept)
    assert line.startswith("entries 1 to 2: not what was anchored")


def test_entry_above_the_anchors_that_tells_of_what_the_chain_never_approved_is_found(kept):
    value = "CAST(replace(CAST(value AS TEXT), '\"round\":3', '\"round\":2') AS BLOB)"
    change_log(kept, f"UPDATE records SET value = {value} WHERE kind = 'deployment-log' AND key LIKE '%3'")
    assert log_findings(kept) == ["entry 3 tells of round 2, of which the chain has no RoundApproved"]


def test_log_that_is_gone_is_said_to_be_not_kept_and_a_broken_one_is_found(kept):
    path = kept / "listener" / "records.sqlite"
    path.write_bytes(b"no database, but as long as a header of one has to be" * 40)
    assert "cannot be read" in log_findings(kept)[0]
    path.unlink()
    report = audit(kept)
    assert report.holds
    assert [f.what for f in report.not_kept][-1] == "not kept: 2 anchored entries of the log of deployments"


# --- contradictions ---------------------------------------------------------------------------------


def keep_ballot(directory: Path, accuracy: int, signer: str) -> None:
    """The coordinator has a vote of the third validator on round 3 among its records."""
    trust = read_trust(directory)
    model, base = (said("round", directory, 3)["chain"][name] for name in ("model", "base"))
    statement = ModelAttestation("condition", 3, 3, base, model, accuracy, 550_000, approved=False)
    signature = attest(statement, trust.domain, key_files.load(directory / "keys" / f"{signer}.json").identity).hex()
    third = key_files.load(directory / "keys" / "validator-3.json").identity
    ballot = SignedVote(Vote(third.address, accuracy, 550_000, approved=False, signature=signature))
    message = envelope.sign(
        third, trust.domain, "condition", Kind.BALLOT, encode(ballot), issued_at_ms=1, round=3, base=base, policy=base
    )

    async def put() -> None:
        async with SqliteRecords(directory / "coordinator" / "records.sqlite") as records:
            await records.put("ballot", "3", envelope.pack(message))

    asyncio.run(put())


def test_second_vote_that_a_validator_signed_for_a_round_is_named(kept):
    keep_ballot(kept, 610_000, "validator-3")
    (found,) = audit(kept).findings
    assert (found.round, found.device) == (3, address_of(kept, "validator-3"))
    assert found.what.startswith("signed two votes, 200000 ppm on chain, 610000 ppm here: slashable")


@pytest.mark.parametrize(("accuracy", "signer"), [(200_000, "validator-3"), (610_000, "validator-1")])
def test_vote_that_is_on_chain_or_that_its_validator_did_not_sign_contradicts_nothing(kept, accuracy, signer):
    keep_ballot(kept, accuracy, signer)
    report = audit(kept)
    assert report.holds, report.findings


def test_slashed_validator_is_named_in_the_round_that_it_lied_in(original):
    (slash,) = said("round", original, 0)["slashed"]
    assert (slash["validator"], slash["kind"]) == (address_of(original, "validator-3"), "model")
    assert slash["tokens"] > 0
    assert said("round", original, 1)["slashed"] == []
    assert "lost" in refused("round", original, 0)[1]
