"""What the report is made from: what stands on disk after a run, and what the supervisor saw.

`load` reads the kept state; nothing is guessed. What is absent or broken is None, and said in `Kept.missing`.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from gemel.adapters.chain_export import ChainExport, decode_export, exported_calls, exported_events
from gemel.demo.report.baselines import Baselines
from gemel.errors import PeerError
from gemel.learning.task import Windows
from gemel.ports import ChainEvent
from gemel.wire.eip712 import task_id
from gemel.wire.messages import Entry, TrainingPlan
from gemel.wire.types import NO_DIGEST, Address, Digest, sha256

# event → the round's state after it, and which of its values are kept under which name
_EVENTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "ListClosed": ("listed", {"roster_root": "root"}),
    "SumProposed": ("aggregated", {"updates_root": "updatesRoot", "sum_digest": "sumDigest"}),
    "SumConfirmed": ("confirmed", {}),
    "SumOpened": ("opened", {}),
    "CandidateProposed": ("measured", {"model": "model", "parent": "parent", "explanation": "explanation"}),
    "RoundApproved": ("approved", {"deployment": "deployment"}),
    "RoundRejected": ("rejected", {}),
    "RoundDeployed": ("deployed", {}),
    "RolledBack": ("rolled_back", {}),
    "RoundAborted": ("aborted", {"reason": "reason"}),
}
VERDICTS = ("approved", "no quorum", "below threshold", "regression")  # QualityGate.sol, in the order of its enum


class TransferRecord(msgspec.Struct, frozen=True):
    """A payload as round.json names it."""

    digest: Digest
    length: int


class RoundRecord(msgspec.Struct, frozen=True):
    """What the report reads of round.json (the whole of it: coordinator/machine.py, `Round`)."""

    number: int
    state: str
    base: Digest
    context: TransferRecord | None = None
    entries: dict[Address, Entry] = {}
    taken: tuple[Address, ...] = ()
    refused: dict[Address, str] = {}
    sum: TransferRecord | None = None
    model: Digest = NO_DIGEST
    reason: str = ""
    entered_ms: dict[str, int] = {}


class Measurement(msgspec.Struct, frozen=True):
    """What the report reads of measurement.json (gemel/learning/measuring.py, `examine`).

    The coordinator's scores are not among it: the report measures every model itself, on its own cycles.
    """

    explanation_drift: float | None = None  # 0 the same, 1 nothing in common


class AgentRound(msgspec.Struct, frozen=True):
    """What an agent said of itself in its status in one round; it counts as its word, nobody can check it."""

    samples: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    change: float | None = None  # mean absolute change of a weight
    frame_bytes: int | None = None  # the frame as it travels: sealed, signed and wrapped
    participation: str = ""


@dataclass(frozen=True, slots=True)
class ChainTransaction:
    """A transaction of a round."""

    function: str
    hash: Digest
    block: int
    gas: int


@dataclass(frozen=True, slots=True)
class ChainVote:
    """One validator's attestation. Accuracies are shares."""

    validator: Address
    accuracy: float
    baseline: float
    approved: bool


@dataclass(frozen=True, slots=True)
class ChainRound:
    """A round as the chain's events tell it. Digests that were never recorded are None; accuracies are shares."""

    state: str
    parent: Digest | None = None
    model: Digest | None = None
    roster_root: Digest | None = None
    updates_root: Digest | None = None
    sum_digest: Digest | None = None
    explanation: Digest | None = None
    accuracy: float | None = None  # medians of the votes, as the contract computed them
    baseline: float | None = None
    deployment: int | None = None
    reason: str = ""
    deciding: Digest | None = None  # the transaction that holds the verdict
    votes: tuple[ChainVote, ...] = ()
    transactions: tuple[ChainTransaction, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """What the contract holds every candidate of the task to. Shares."""

    threshold: float
    max_regression: float
    minimum_owners: int
    quorum: float  # share of the elected stake


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """One round from all sides. `sealed_bytes`: device → size of its signed, sealed frame before wrapping."""

    number: int
    record: RoundRecord | None
    chain: ChainRound | None
    measurement: Measurement | None
    sealed_bytes: Mapping[Address, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """What `load` found: rounds by number, the gate, and a line for everything that is absent or does not parse."""

    rounds: tuple[RoundEvidence, ...]
    gate: Gate | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that `build` is handed. Picklable: building takes seconds of CPU and belongs into a worker process.

    `agents`: name → device address. `gateway_windows`: the same names → what each trains on, from the same split
    as the plant's (gemel/learning/splits.py). `baselines`: what `baselines.compute` gave, where the supervisor had
    it computed while the rounds went on; None has `build` compute it. `sabotage`: round → what the demo broke there
    on purpose. `kept`: from `load`.
    """

    out_dir: Path
    state_dir: Path
    seed: int
    machine: str
    duration_s: float
    task_path: str
    plan: TrainingPlan
    agents: Mapping[str, Address]
    agent_rounds: Mapping[str, Mapping[int, AgentRound]]
    gateway_windows: Mapping[str, Windows]
    report_windows: Windows
    validation_windows: Windows
    kept: Kept
    baselines: Baselines | None = None
    sabotage: Mapping[int, str] = field(default_factory=dict)


def describe_machine() -> str:
    """The machine in words, for `Evidence.machine`: nothing that names it."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def read_agent_rounds(statuses: Mapping[str, Mapping[int, Mapping[str, object]]]) -> dict[str, dict[int, AgentRound]]:
    """Status fields as they came over the bus, by agent and round; a field of another type is left out."""
    return {
        agent: {number: _agent_round(fields) for number, fields in rounds.items()}
        for agent, rounds in statuses.items()
    }


def _agent_round(fields: Mapping[str, object]) -> AgentRound:
    kept: dict[str, object] = {}
    for each in msgspec.structs.fields(AgentRound):
        try:
            kept[each.name] = msgspec.convert(fields[each.name], each.type)
        except (KeyError, msgspec.ValidationError):
            continue  # an agent may say anything; what is no figure is not shown as one
    return msgspec.convert(kept, AgentRound)


def load(state_dir: Path, chain_export: Path, *, task: str) -> Kept:
    """Read the coordinator's rounds below `state_dir` and the exported chain, for the task of this name.

    Never raises for what a run left behind: each thing that is absent or broken becomes a line of `missing`.
    """
    missing: list[str] = []
    export = _read_export(chain_export, missing)
    chain, gate = ({}, None) if export is None else _read_chain(export, task_id(task), missing)
    folders = {int(path.name): path for path in (state_dir / "coordinator" / "rounds").glob("[0-9]" * 6)}
    if not folders:
        missing.append("the coordinator kept no rounds")
    rounds = [
        _read_round(number, folders.get(number), chain.get(number), missing) for number in sorted({*folders, *chain})
    ]
    return Kept(tuple(rounds), gate, tuple(missing))


def read_model(state_dir: Path, digest: Digest) -> bytes | None:
    """A model from the coordinator's blobs; None where it is absent or is not what its name says."""
    path = state_dir / "coordinator" / "blobs" / digest[:2] / digest  # gemel.adapters.file_blobs
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if sha256(data) == digest else None


# --- the coordinator's folder -------------------------------------------------------------------

T = TypeVar("T")


def _read_round(number: int, folder: Path | None, chain: ChainRound | None, missing: list[str]) -> RoundEvidence:
    def read(part: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((folder / part).read_bytes(), type=kind) if folder else None
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            missing.append(f"round {number}: {part} cannot be read: {error}")
            return None

    record = read("round.json", RoundRecord)
    measurement = read("measurement.json", Measurement)
    if record is None:
        missing.append(f"round {number}: the coordinator's round.json")
    if chain is None:
        missing.append(f"round {number}: the chain's record")
    if number > 0 and measurement is None:  # M0 is attested by the validators alone
        missing.append(f"round {number}: the coordinator's measurement.json")
    frames = {path.name: path.stat().st_size for path in (folder / "frames").glob("0x*")} if folder else {}
    return RoundEvidence(number, record, chain, measurement, frames)


# --- the chain ----------------------------------------------------------------------------------


def _read_export(path: Path, missing: list[str]) -> ChainExport | None:
    try:
        return decode_export(path.read_bytes())
    except (OSError, PeerError) as error:
        missing.append(f"the chain's export: {error}")
        return None


def _read_chain(export: ChainExport, task: Digest, missing: list[str]) -> tuple[dict[int, ChainRound], Gate | None]:
    functions: dict[Digest, str] = {}
    rounds: dict[int, list[ChainEvent]] = defaultdict(list)
    gate = None
    try:
        functions = {call.transaction: call.function for call in exported_calls(export)}
        for event in exported_events(export):
            if event.values.get("task") != task:
                continue
            if event.name == "TaskCreated":
                gate = _gate(event)
            elif "round" in event.values:
                rounds[_number(event, "round")].append(event)
    except PeerError as error:
        missing.append(f"the chain's export, from some point on: {error}")
    gas = {each.hash: each.gas for each in export.transactions}
    return {number: _chain_round(events, functions, gas) for number, events in rounds.items()}, gate


def _chain_round(
    events: Sequence[ChainEvent], functions: Mapping[Digest, str], gas: Mapping[Digest, int]
) -> ChainRound:
    facts: dict[str, object] = {"state": "open"}
    votes: list[ChainVote] = []
    sent: dict[Digest, ChainTransaction] = {}
    for event in events:
        name = functions.get(event.transaction, event.name)
        sent[event.transaction] = ChainTransaction(name, event.transaction, event.block, gas[event.transaction])
        if event.name == "VoteRevealed":
            votes.append(_vote(event))
        else:
            facts |= _facts(event)
    return ChainRound(**facts, votes=tuple(votes), transactions=tuple(sent.values()))  # type: ignore[arg-type]  # by name


def _facts(event: ChainEvent) -> dict[str, object]:
    """What an event adds to what is known of its round."""
    if event.name not in _EVENTS:
        return {}
    state, fields = _EVENTS[event.name]
    facts: dict[str, object] = {"state": state}
    facts |= {field: event.values[name] for field, name in fields.items() if event.values[name] != NO_DIGEST}
    if event.name in ("RoundApproved", "RoundRejected"):
        facts |= {"accuracy": _share(event, "accuracy"), "baseline": _share(event, "baseline")}
    if event.name in ("RoundApproved", "RoundRejected", "RoundAborted"):
        facts["deciding"] = event.transaction
    if event.name == "RoundRejected":
        facts["reason"] = _verdict_name(_number(event, "reason"))
    return facts


def _verdict_name(number: int) -> str:
    return VERDICTS[number] if number < len(VERDICTS) else f"verdict {number}"


def _vote(event: ChainEvent) -> ChainVote:
    validator, approved = str(event.values["validator"]), bool(event.values["approved"])
    return ChainVote(validator, _share(event, "accuracy"), _share(event, "baseline"), approved)


def _gate(event: ChainEvent) -> Gate:
    return Gate(
        _share(event, "threshold"),
        _share(event, "maxRegression"),
        _number(event, "minimumOwners"),
        _share(event, "quorumPart"),
    )


def _number(event: ChainEvent, name: str) -> int:
    return int(str(event.values[name]))


def _share(event: ChainEvent, name: str) -> float:
    return _number(event, name) / 1_000_000
