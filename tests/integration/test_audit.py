"""The auditor on a small real state: it holds as it was kept, and no flipped byte and no forgery gets past."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner

from gemel.__main__ import app
from gemel.adapters import key_files
from gemel.adapters.chain_export import ChainExport, decode_export, encode_export
from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.typed_transactions import Transaction, open_transaction, sign_transaction
from gemel.console.auditor.verify import AuditReport, audit
from gemel.errors import ConfigError, PeerError
from gemel.exchange.admission import weighed
from gemel.exchange.round_folder import RoundFolder
from gemel.sealing.opener import create_key
from gemel.wire import envelope
from gemel.wire.electorate import Electorate, Member
from gemel.wire.envelope import HEADER_BYTES, Header, Kind
from gemel.wire.messages import Aggregate, decode
from gemel.wire.trust import Trust
from tests.support.kept_state import build
from tests.support.plans import POLICY

KEPT_AS_IT_IS = ("keys", "listener")  # secrets are no evidence; a database has bytes that say nothing
EXPORT = "chain-export.json"
OTHERS = Electorate(1, 666_666, (Member("0x" + "11" * 20, "ab" * 32, 1000),))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept")
    asyncio.run(build(directory))
    return directory


@pytest.fixture
def kept(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "kept"))


def findings(directory: Path) -> str:
    """Where and what, a line each; what cannot be read at all is a finding too."""
    try:
        report = audit(directory)
    except ConfigError as error:
        return str(error)
    return "\n".join(f"{f.round} {f.where} {f.device}: {f.what}" for f in report.findings)


def frames_of(directory: Path, number: int = 1) -> list[Path]:
    return sorted(RoundFolder(directory / "coordinator", number).frames.iterdir())


def identity_of(directory: Path, name: str) -> key_files.Keys:
    return key_files.load(directory / "keys" / f"{name}.json")


def rewrite_export(directory: Path, change: Callable[[ChainExport], ChainExport]) -> None:
    path = directory / EXPORT
    path.write_bytes(encode_export(change(decode_export(path.read_bytes()))))


# --- as it was kept -------------------------------------------------------------------------------


def test_kept_state_holds_and_everything_was_looked_at(original):
    report: AuditReport = audit(original)
    assert report.holds, report.findings
    assert [(r.round, r.state, r.verdict) for r in report.rounds] == [
        (0, "deployed", "approved"),
        (1, "deployed", "approved"),
        (2, "rejected", "no_quorum"),
        (3, "rolled_back", "approved"),
        (4, "aborted", "none"),
    ]
    assert [(a.deployment, a.round) for a in report.lineage] == [(1, 0), (2, 1), (3, 3)]
    assert [a.parent for a in report.lineage[1:]] == [a.model for a in report.lineage[:-1]]
    held = report.held
    assert (held["frames"], held["sums recomputed"], held["candidates recomputed"]) == (6, 2, 2)
    assert held["transactions"] == len(decode_export((original / EXPORT).read_bytes()).transactions)


def test_trust_stands_in_the_kept_lists_as_levels(original):
    doubted = identity_of(original, "gateway-1").identity.address
    message = (RoundFolder(original / "coordinator", 1).path / "aggregate").read_bytes()
    entries = decode(Aggregate, message[HEADER_BYTES:]).entries
    assert {entry.device == doubted: entry.level for entry in entries} == {True: 2, False: 4}


def test_updates_that_coordinator_and_validators_weighed_as_they_liked_are_found(tmp_path):
    """Lists, roots, sums, weights and signatures all fit: only the policy says otherwise."""
    asyncio.run(build(tmp_path, lambda entries, policy, scores: weighed(entries, replace(policy, trust={}), scores)))
    found = findings(tmp_path).splitlines()
    assert [line for line in found if "weighs updates otherwise than policy and trust scores say" in line] == found
    assert {line.split()[0] for line in found} == {"1", "2", "3"}


def test_dropped_ciphertexts_are_said_to_be_not_kept_and_only_they(original):
    *dropped, waiting = audit(original).not_kept
    assert {Path(line.where).name for line in dropped} == {"context", "frames", "sum", "opened"}
    assert {line.round for line in dropped} == {3}
    assert all("not kept" in line.what for line in dropped)
    assert waiting.what == "not anchored yet: nothing on chain holds entry 3"


def test_command_says_that_the_kept_state_holds_and_that_a_spoiled_one_does_not(kept):
    verify = ["audit", "verify", str(kept)]
    said = CliRunner().invoke(app, verify)
    assert (said.exit_code, said.stdout.splitlines()[-1]) == (0, "All holds.")
    lineage = CliRunner().invoke(app, ["audit", "lineage", str(kept)])
    assert lineage.exit_code == 0
    assert all(ancestor.model[:10] in lineage.stdout for ancestor in audit(kept).lineage[:-1])
    for _ in flipped(kept / "coordinator/rounds/000002/opened", 20, 4):
        said = CliRunner().invoke(app, verify)
    assert said.exit_code == 1
    assert "round 2, coordinator/rounds/000002/opened: is not the opened sum" in said.stdout


@pytest.mark.parametrize("name", ["round-000001.key", "round-000004.new"])
def test_sealing_key_beside_its_frames_is_a_finding(kept, name):
    assert frames_of(kept)
    folder = kept / "custodian" / "keys"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(create_key(POLICY.sealing, 15).secret)
    assert f"custodian/keys/{name} None: a sealing key beside the frames that it opens" in findings(kept)


# --- one flipped byte -----------------------------------------------------------------------------


def evidence_files(directory: Path) -> list[str]:
    files = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    return sorted(name for name in files if not name.startswith(KEPT_AS_IT_IS))


def says_the_same(name: str, before: bytes, after: bytes) -> bool:
    """Whether only spelling changed, or a field that no audit covers and that the report says so of."""

    def meaning(data: bytes) -> object:
        try:
            if name == "trust.json":
                return msgspec.structs.replace(msgspec.json.decode(data, type=Trust), fleet="")
            if name == "chain.json":
                return msgspec.structs.replace(msgspec.json.decode(data, type=ChainPlace), rpc_url="")
            if name == EXPORT:
                return _covered(decode_export(data))
        except (msgspec.DecodeError, UnicodeDecodeError, PeerError):
            return data
        return data

    return meaning(before) == meaning(after)


def _covered(export: ChainExport) -> ChainExport:
    kept = {block.number for block in export.blocks}
    blocks = tuple(
        replace(
            block, timestamp_s=0, hash=block.hash if block.number + 1 in kept else "0" * 64
        )  # else nobody names it
        for block in export.blocks
    )
    transactions = tuple(msgspec.structs.replace(each, gas=0) for each in export.transactions)
    return msgspec.structs.replace(export, blocks=blocks, transactions=transactions)


def flipped(path: Path, offset: int, mask: int) -> Iterator[tuple[bytes, bytes]]:
    """The file with one byte changed, until the generator is closed."""
    before = path.read_bytes()
    after = bytearray(before)
    after[offset] ^= mask
    path.write_bytes(after)
    try:
        yield before, bytes(after)
    finally:
        path.write_bytes(before)


def test_one_flipped_byte_in_any_file_is_found(kept):
    """Every file, at its ends and somewhere between."""
    rng = random.Random(2)
    passed = []
    for name in evidence_files(kept):
        path = kept / name
        size = path.stat().st_size
        for offset in {0, size - 1, rng.randrange(size)}:
            mask = rng.randrange(1, 256)
            for before, after in flipped(path, offset, mask):
                if not says_the_same(name, before, after) and not findings(kept):
                    passed.append((name, offset, mask))
    assert passed == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_flipped_byte_anywhere_is_found(kept, data):
    name = data.draw(st.sampled_from(evidence_files(kept)))
    offset = data.draw(st.integers(0, (kept / name).stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    for before, after in flipped(kept / name, offset, mask):
        assume(not says_the_same(name, before, after))
        assert findings(kept)


def test_flipped_byte_in_a_frame_names_file_round_and_device(kept):
    frame = frames_of(kept)[0]
    for _ in flipped(frame, HEADER_BYTES + 5000, 1):
        said = findings(kept)
    assert f"1 coordinator/rounds/000001/frames/{frame.name} {frame.name}: refused: digest_mismatch" in said


# --- forgeries by parties who hold keys -------------------------------------------------------------


def test_frame_that_its_device_signed_but_never_committed_to_is_found(kept):
    agent = identity_of(kept, "gateway-1").identity
    path = RoundFolder(kept / "coordinator", 1).frames / agent.address
    old = path.read_bytes()
    header, other = Header.parse(old), bytearray(old[HEADER_BYTES:])
    other[-8] ^= 1
    trust = msgspec.json.decode((kept / "trust.json").read_bytes(), type=Trust)
    terms = {"round": 1, "base": header.base, "policy": header.policy, "weight": header.weight}
    signed = envelope.sign(agent, trust.domain, trust.task, Kind.UPDATE, bytes(other), issued_at_ms=1, **terms)
    path.write_bytes(envelope.pack(signed))
    assert f"{agent.address}: refused: no_commitment" in findings(kept)


def test_frame_of_a_stranger_among_the_kept_ones_is_found(kept):
    frame = frames_of(kept)[0]
    shutil.copy(frame, frame.with_name("0x" + "ab" * 20))
    assert "its device did not commit to one" in findings(kept)


def test_single_frame_gone_is_a_finding_that_names_its_device(kept):
    frame = frames_of(kept)[0]
    frame.unlink()
    assert f"1 coordinator/rounds/000001/frames {frame.name}: a frame of the sum is gone" in findings(kept)


@pytest.mark.parametrize("part", ["invitation", "roster", "aggregate", "opening", "explanation.json"])
def test_published_message_that_is_gone_is_a_finding(kept, part):
    (kept / "coordinator/rounds/000001" / part).unlink()
    assert f"rounds/000001/{part} None: is missing, though the chain shows" in findings(kept)


def test_message_of_another_round_in_its_place_is_found(kept):
    rounds = kept / "coordinator/rounds"
    shutil.copy(rounds / "000002/roster", rounds / "000001/roster")
    assert "000001/roster None: refused: stale_round" in findings(kept)


def test_sealing_context_with_the_secret_key_in_it_is_found(kept):
    key = create_key(POLICY.sealing, 15)
    secret_context = key.secret[-len(key.secret) // 2 :]
    (kept / "coordinator/rounds/000001/context").write_bytes(secret_context)
    assert "000001/context" in findings(kept)


def test_missing_model_in_use_is_a_finding_and_a_missing_candidate_is_not_kept(kept):
    report = audit(kept)
    blobs = kept / "coordinator/blobs"
    in_use = report.lineage[-2].model  # the last one was rolled back
    approved = {ancestor.model for ancestor in report.lineage}
    (rejected,) = {path.name for path in blobs.glob("*/*")} - approved
    (blobs / rejected[:2] / rejected).unlink()
    assert findings(kept) == ""
    assert any(rejected in line.where for line in audit(kept).not_kept)
    (blobs / in_use[:2] / in_use).unlink()
    assert "an approved model is missing" in findings(kept)


def test_agent_that_keeps_a_model_which_was_never_approved_is_found(kept):
    approved = {ancestor.model for ancestor in audit(kept).lineage}
    (rejected,) = [p for p in (kept / "coordinator/blobs").glob("*/*") if p.name not in approved]
    shutil.copy(rejected, kept / f"agents/gateway-1/models/{rejected.name}.safetensors")
    assert f"{rejected.name}.safetensors None: an agent keeps a model that was never approved" in findings(kept)


def test_other_policy_in_its_canonical_form_is_found(kept):
    policy = msgspec.json.decode((kept / "policy.json").read_bytes())
    policy["training"]["epochs"] = 99
    (kept / "policy.json").write_bytes(msgspec.json.encode(policy, order="sorted"))
    assert "1 policy.json None: is not the policy of this round on chain" in findings(kept)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"electorate": OTHERS}, "pins others than epoch 1 elected"),
        ({"task": "other"}, "no task other"),
        ({"chain_id": 1}, "pins another chain"),
        ({"listener": "0x" + "11" * 20}, "is registered as no listener"),
    ],
)
def test_pins_that_are_not_the_chains_are_found(kept, change, says):
    trust = msgspec.json.decode((kept / "trust.json").read_bytes(), type=Trust)
    (kept / "trust.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(trust, **change)))
    assert says in findings(kept)


# --- a chain that was told otherwise ----------------------------------------------------------------


def transaction_of(export: ChainExport, function: str, nth: int = 0) -> int:
    """The position of the n-th call of a function."""
    from gemel.adapters.chain_export import exported_calls

    digests = [call.transaction for call in exported_calls(export) if call.function == function]
    return next(i for i, each in enumerate(export.transactions) if each.hash == digests[nth])


def replaced(export: ChainExport, position: int, **changes: object) -> ChainExport:
    transactions = list(export.transactions)
    transactions[position] = msgspec.structs.replace(transactions[position], **changes)
    return msgspec.structs.replace(export, transactions=tuple(transactions))


@pytest.mark.parametrize(
    "function",
    ["stake", "closeEpoch", "register", "closeList", "attestSums", "commit", "reveal", "finalise", "recordDeployed"],
)
def test_transaction_left_out_is_found(kept, function):
    def leave_out(export: ChainExport) -> ChainExport:
        position = transaction_of(export, function)
        rest = export.transactions[:position] + export.transactions[position + 1 :]
        return msgspec.structs.replace(export, transactions=rest)

    rewrite_export(kept, leave_out)
    assert findings(kept)


def test_transaction_left_out_with_its_block_shows_as_a_gap_in_its_senders_numbers(kept):
    """Rewards that nobody was paid yet change nothing else, so only the gap can tell."""

    def leave_out(export: ChainExport) -> ChainExport:
        gone = export.transactions[transaction_of(export, "fund")]
        return msgspec.structs.replace(
            export,
            blocks=tuple(block for block in export.blocks if block.number != gone.block),
            transactions=tuple(each for each in export.transactions if each.hash != gone.hash),
        )

    rewrite_export(kept, leave_out)
    report = audit(kept)
    operator = identity_of(kept, "operator").identity.address
    (gap,) = [found for found in report.not_kept if found.device is not None]
    assert gap.device == operator
    assert re.fullmatch(r"not kept: its transaction \d+, which failed, concerned others, or was left out", gap.what)


def test_event_that_says_something_else_than_the_signed_call_is_found(kept):
    def lie(export: ChainExport) -> ChainExport:
        position = transaction_of(export, "finalise", 1)
        *others, log = export.transactions[position].logs
        log = msgspec.structs.replace(log, data=log.data[:-64] + "0" * 58 + "0f4240")
        return replaced(export, position, logs=(*others, log))

    rewrite_export(kept, lie)
    assert "RoundApproved, but what was signed makes BallotClosed" in findings(kept)


def test_vote_that_somebody_else_changed_is_found_though_the_transaction_is_signed(kept):
    """The coordinator hands in votes: it may sign the transaction anew, but not the attestation in it."""

    def forge(export: ChainExport) -> ChainExport:
        position = transaction_of(export, "reveal", 1)
        opened = open_transaction(bytes.fromhex(export.transactions[position].raw))
        data = opened.data.replace((610_000).to_bytes(32, "big"), (999_999).to_bytes(32, "big"))
        assert data != opened.data
        forged = Transaction(opened.chain_id, opened.nonce, 1, 1, 1_000_000, opened.to, data)
        raw = sign_transaction(forged, identity_of(kept, "coordinator").identity)
        digest = open_transaction(raw).hash
        return replaced(export, position, raw=raw.hex(), hash=digest)

    rewrite_export(kept, forge)
    assert "the contracts refuse it: BadSignature" in findings(kept)


def test_transactions_in_another_order_are_found(kept):
    def swap(export: ChainExport) -> ChainExport:
        position = transaction_of(export, "closeList")
        one, two = export.transactions[position], export.transactions[position + 1]
        swapped = (msgspec.structs.replace(two, block=one.block), msgspec.structs.replace(one, block=two.block))
        rest = export.transactions
        return msgspec.structs.replace(export, transactions=rest[:position] + swapped + rest[position + 2 :])

    rewrite_export(kept, swap)
    assert findings(kept)


def test_blocks_that_do_not_name_their_parent_are_found(kept):
    def cut(export: ChainExport) -> ChainExport:
        blocks = list(export.blocks)
        (at,) = (position for position, block in enumerate(blocks) if block.number == 20)
        blocks[at] = msgspec.structs.replace(blocks[at], parent="ab" * 32)
        return msgspec.structs.replace(export, blocks=tuple(blocks))

    rewrite_export(kept, cut)
    assert "block 20 None: does not name the block before it as its parent" in findings(kept)


def test_export_in_another_form_is_found(kept):
    (kept / EXPORT).write_bytes((kept / EXPORT).read_bytes().replace(b'"version": 2', b'"version":  2'))
    assert "not in the form in which it was written" in findings(kept)


# --- what cannot be read ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trust.json", "policy.json", "chain.json", EXPORT])
def test_missing_or_broken_file_that_all_stands_on_is_a_configuration_error(kept, name):
    (kept / name).write_bytes(b"{")
    with pytest.raises(ConfigError, match=name):
        audit(kept)
    (kept / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}.*No such file"):
        audit(kept)
