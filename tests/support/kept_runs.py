"""The state that a run of the demo keeps, made by hand: rounds, blobs, and a chain whose calls are really signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.abi import encode

from gemel.adapters.chain_export import ChainExport, ExportedBlock, ExportedLog, ExportedTransaction, encode_export
from gemel.adapters.contract_abi import CONTRACTS, QUALITY_VOTES, ROUND_REGISTRY, load
from gemel.adapters.typed_transactions import Transaction, open_transaction, sign_transaction
from gemel.wire.eip712 import task_id
from gemel.wire.types import NO_DIGEST, Address, Digest, ppm, sha256
from tests.support.parties import COORDINATOR, CUSTODIAN, LISTENER, VALIDATORS

TASK = "hydraulic"
CHAIN_ID = 31337
PLACES = {name: "0x" + f"d{number:x}" * 20 for number, name in enumerate(CONTRACTS)}
POLICY = sha256(b"policy")
APPROVED, BELOW_THRESHOLD, REGRESSION = 0, 2, 3


@dataclass(frozen=True)
class MadeRound:
    """A round to keep. `verdict` is the contract's; None leaves the round without one."""

    number: int
    base: bytes | None
    model: bytes
    verdict: int | None = APPROVED
    deployment: int = 0
    accuracy: float = 0.7
    baseline: float = 0.6
    weights: Mapping[Address, int] = field(default_factory=dict)
    drift: float | None = 0.2


class MadeChain:
    """Collects transactions and events, one block each, and writes the export."""

    def __init__(self) -> None:
        self._blocks: list[ExportedBlock] = []
        self._transactions: list[ExportedTransaction] = []

    def send(
        self,
        sender: Any,
        function: str,
        arguments: Sequence[Any],
        events: Sequence[tuple[str, dict[str, Any]]],
        contract: str = ROUND_REGISTRY,
    ) -> None:
        """A call that left these events."""
        data = load(contract).functions[function].encode(*arguments)
        number = len(self._blocks)
        raw = sign_transaction(Transaction(CHAIN_ID, number, 1, 1, 500_000, PLACES[contract], data), sender)
        logs = tuple(_log(contract, i, name, values) for i, (name, values) in enumerate(events))
        opened = open_transaction(raw)
        self._transactions.append(ExportedTransaction(opened.hash, number, 50_000 + len(data), raw.hex(), logs))
        self._blocks.append(ExportedBlock(number, sha256(b"block %d" % number), sha256(b"parent"), 1_700_000_000))

    def export(self) -> bytes:
        """The file."""
        blocks, transactions = tuple(self._blocks), tuple(self._transactions)
        return encode_export(ChainExport(2, CHAIN_ID, PLACES, blocks, transactions))


def keep_run(state_dir: Path, rounds: Sequence[MadeRound], task: str = TASK) -> None:
    """Write coordinator/rounds, coordinator/blobs and chain-export.json below `state_dir`."""
    chain = MadeChain()
    created = {"task": task_id(task), "name": task, "threshold": 300_000, "maxRegression": 20_000}
    created |= {"minimumOwners": 3, "quorumPart": 666_666, "policy": POLICY}
    chain.send(COORDINATOR, "createTask", (task, 300_000, 20_000, 3, 666_666, POLICY), [("TaskCreated", created)])
    for each in rounds:
        _keep_round(state_dir / "coordinator", each)
        _record_round(chain, task_id(task), each)
    (state_dir / "chain-export.json").write_bytes(chain.export())


def _keep_round(coordinator: Path, each: MadeRound) -> None:
    folder = coordinator / "rounds" / f"{each.number:06d}"
    (folder / "frames").mkdir(parents=True)
    digest = sha256(each.model)
    blob = coordinator / "blobs" / digest[:2] / digest
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(each.model)
    states = ["open", "listed", "collecting", "aggregated", "confirmed", "opened", "measured"]
    states += {None: [], APPROVED: ["approved", "deploying", "deployed"]}.get(each.verdict, ["rejected"])
    if each.number == 0:
        states = states[6:]
    began = 1_700_000_000_000 + 60_000 * each.number
    entries = {
        device: {"device": device, "digest": sha256(device.encode()), "weight": weight}
        | {"transfer": {"digest": sha256(b"frame" + device.encode()), "length": 210_000}}
        for device, weight in each.weights.items()
    }
    round_ = {
        "number": each.number,
        "state": states[-1],
        "base": sha256(each.base) if each.base else NO_DIGEST,
        "policy": POLICY,
        "context": {"digest": sha256(b"context"), "length": 600_000} if entries else None,
        "entries": entries,
        "taken": sorted(entries),
        "sum": {"digest": sha256(b"sum"), "length": 205_000} if entries else None,
        "model": digest,
        "entered_ms": {state: began + 1700 * i for i, state in enumerate(states)},
    }
    (folder / "round.json").write_bytes(msgspec.json.encode(round_))
    for device in entries:
        (folder / "frames" / device).write_bytes(b"\1" * 205_281)
    if each.number > 0:
        measurement = {"explanation_drift": each.drift, "windows": 9}
        (folder / "measurement.json").write_bytes(msgspec.json.encode(measurement))


def _record_round(chain: MadeChain, task: Digest, each: MadeRound) -> None:
    here: dict[str, Any] = {"task": task, "round": each.number}
    base, model = sha256(each.base) if each.base else NO_DIGEST, sha256(each.model)
    opened = ("RoundOpened", here | {"base": base, "policy": POLICY})
    candidate = here | {"parent": base, "model": model, "explanation": NO_DIGEST, "accuracy": ppm(each.accuracy)}
    if each.number == 0:
        proposed = ("CandidateProposed", candidate | {"accuracy": 0})
        chain.send(COORDINATOR, "proposeGenesis", (task, model, POLICY), [opened, proposed])
    else:
        chain.send(COORDINATOR, "openRound", (task, each.number, base, POLICY), [opened])
        _record_sum(chain, task, here)
        explained = ("CandidateProposed", candidate | {"explanation": sha256(b"explanation")})
        arguments = (task, each.number, model, sha256(b"explanation"), ppm(each.accuracy))
        chain.send(COORDINATOR, "proposeCandidate", arguments, [explained])
    if each.verdict is not None:
        _record_verdict(chain, task, each, here, base)


def _record_sum(chain: MadeChain, task: Digest, here: dict[str, Any]) -> None:
    number, root, sum_digest = here["round"], sha256(b"updates"), sha256(b"sum")
    chain.send(
        COORDINATOR, "closeList", (task, number, sha256(b"list")), [("ListClosed", here | {"root": sha256(b"list")})]
    )
    proposed = here | {"updatesRoot": root, "sumDigest": sum_digest, "owners": 3, "weight": 30}
    chain.send(COORDINATOR, "proposeSum", (task, number, root, sum_digest, 3, 30), [("SumProposed", proposed)])
    attested = here | {"validator": VALIDATORS[0].address, "signature": "00" * 65}
    arguments = (task, number, [(VALIDATORS[0].address, "00" * 65)])
    chain.send(VALIDATORS[0], "attestSums", arguments, [("SumAttested", attested), ("SumConfirmed", proposed)])
    opened = here | {"opened": sha256(b"opened")}
    chain.send(CUSTODIAN, "recordOpening", (task, number, sha256(b"opened")), [("SumOpened", opened)])


def _record_verdict(chain: MadeChain, task: Digest, each: MadeRound, here: dict[str, Any], base: Digest) -> None:
    accuracy, baseline, model = ppm(each.accuracy), ppm(each.baseline), sha256(each.model)
    approved = each.verdict == APPROVED
    for validator in VALIDATORS:
        vote = {"validator": validator.address, "accuracy": accuracy, "baseline": baseline, "approved": approved}
        vote |= {"signature": "00" * 65}
        arguments = (task, each.number, [tuple(vote.values())])
        chain.send(validator, "reveal", arguments, [("VoteRevealed", here | vote)], QUALITY_VOTES)
    values = here | {"model": model, "accuracy": accuracy, "baseline": baseline}
    if approved:
        event = ("RoundApproved", values | {"deployment": each.deployment, "parent": base})
    else:
        event = ("RoundRejected", values | {"approved": 0, "reason": each.verdict})
    chain.send(COORDINATOR, "finalise", (task, each.number), [event])
    if approved:
        deployed = here | {"deployment": each.deployment, "model": model, "agents": 3}
        chain.send(LISTENER, "recordDeployed", (task, each.number, 3), [("RoundDeployed", deployed)])


def _log(contract: str, index: int, name: str, values: dict[str, Any]) -> ExportedLog:
    entry = next(each for each in load(contract).events.values() if each.name == name)

    def encoded(indexed: bool) -> list[tuple[str, Any]]:
        return [(i["type"], _value(i["type"], values[i["name"]])) for i in entry.inputs if i["indexed"] == indexed]

    topics = [encode([kind], [value]).hex() for kind, value in encoded(True)]
    kinds, plain = zip(*encoded(False), strict=True) if encoded(False) else ((), ())
    return ExportedLog(PLACES[contract], index, (entry.selector.hex(), *topics), encode(kinds, plain).hex())


def _value(kind: str, value: Any) -> Any:
    return bytes.fromhex(value) if kind.startswith("bytes") else value
