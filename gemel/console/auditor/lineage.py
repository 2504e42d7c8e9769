"""Where models come from: the approved ones from M0 to the one in use, and their bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from gemel.adapters.contract_abi import ROUND_REGISTRY
from gemel.console.auditor.book import Book, require
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import Ledger, Mark, RoundLine, TaskLine
from gemel.console.auditor.source import Source, one_of
from gemel.ports import RoundState
from gemel.wire.types import NO_DIGEST, Count, Digest, Ppm, sha256


class RollBack(msgspec.Struct, frozen=True):
    """A model was given up, and its parent is in use again under a number of its own."""

    deployment: Count
    agents: Count  # that ran the parent again when it was recorded
    report: Digest  # of what was observed
    mark: Mark  # its sender is who did it: the listener for canaries, the operator later


class Ancestor(msgspec.Struct, frozen=True):
    """One approved model, with what decided it. Weights are of stake, as of the vote."""

    deployment: Count
    round: Count
    model: Digest
    parent: Digest
    updates_root: Digest
    owners: Count  # how many stand behind the sum
    weight: Count  # of the sum: levels times samples
    approved_weight: int
    total_weight: int
    quorum_weight: int
    approvals: Count
    votes: Count
    accuracy: Ppm
    baseline: Ppm
    state: str
    mark: Mark  # of the verdict
    rolled_back: RollBack | None


class Proposal(msgspec.Struct, frozen=True):
    """A round that a model was the candidate of."""

    round: Count
    state: str
    verdict: str  # as RoundVerdict's


class LineageReport(msgspec.Struct, frozen=True):
    """Where a model comes from. One that was never approved has no ancestry."""

    task: str
    model: str  # that was asked for; its beginning, where nobody ever proposed it
    in_use: Digest
    proposed: tuple[Proposal, ...]
    ancestry: tuple[Ancestor, ...]  # M0 first, the model last
    given_up: tuple[Ancestor, ...]  # other children of these that were rolled back

    @property
    def is_approved(self) -> bool:
        """Whether the model ever was."""
        return bool(self.ancestry)


def report_lineage(source: Source, start: str = "") -> LineageReport:
    """The ancestry of the model whose digest begins so; of the model in use where nothing is asked for.

    Raises ConfigError where several begin so.
    """
    ledger, task = source.ledger, source.task
    in_use: Digest = ledger.view(ROUND_REGISTRY, "task", task.id)["model"]
    candidates = {line.record.model for line in task.rounds.values()} - {NO_DIGEST}
    model = one_of(start, candidates, "model") if start else in_use
    approved = {ancestor.model: ancestor for ancestor in lineage_of(ledger, task)}
    ancestry: list[Ancestor] = []
    following = approved.get(model or "")
    while following is not None:
        ancestry.append(following)
        following = approved.get(following.parent)
    line_of = {ancestor.model for ancestor in ancestry}
    others = (each for each in approved.values() if each.parent in line_of and each.model not in line_of)
    proposals = (
        Proposal(number, line.record.state.name.lower(), line.verdict_name)
        for number, line in sorted(task.rounds.items())
        if model is not None and line.record.model == model
    )
    return LineageReport(
        task=task.name,
        model=model or start,
        in_use=in_use,
        proposed=tuple(proposals),
        ancestry=tuple(reversed(ancestry)),
        given_up=tuple(each for each in others if each.rolled_back is not None),
    )


def lineage_of(ledger: Ledger, task: TaskLine) -> tuple[Ancestor, ...]:
    """All approved models, M0 first."""
    ancestors = (_ancestor(ledger, task, model, number) for model, number in task.approved.items())
    return tuple(sorted(ancestors, key=lambda ancestor: ancestor.deployment))


def rollback_of(ledger: Ledger, line: RoundLine) -> RollBack | None:
    """How the model of a round was given up, if it was."""
    event = line.event("RolledBack")
    if event is None:
        return None
    values: Any = event.values
    return RollBack(values["deployment"], values["agents"], values["report"], ledger.mark(event))


def _ancestor(ledger: Ledger, task: TaskLine, model: Digest, number: int) -> Ancestor:
    line = task.rounds[number]
    verdict, ballot = line.event("RoundApproved"), line.event("BallotClosed")
    assert verdict is not None  # it is approved
    assert ballot is not None
    values: Any = ballot.values
    return Ancestor(
        deployment=line.record.deployment,
        round=number,
        model=model,
        parent=line.record.base,
        updates_root=line.record.updates_root,
        owners=line.record.owners,
        weight=line.record.weight,
        approved_weight=values["approved"],
        total_weight=values["total"],
        quorum_weight=task.quorum_weight(values["total"]),
        approvals=sum(vote.approved for vote in line.votes),
        votes=len(line.votes),
        accuracy=line.record.accuracy,
        baseline=line.record.baseline,
        state=line.record.state.name.lower(),
        mark=ledger.mark(verdict),
        rolled_back=rollback_of(ledger, line),
    )


def check_lineage(ledger: Ledger, task: TaskLine, evidence: Evidence, book: Book) -> None:
    """Deployment numbers rise, each parent is the last model that was not given up, and the kept bytes are theirs."""
    parent, number = NO_DIGEST, 0
    for ancestor in lineage_of(ledger, task):
        with book.checking("lineage", "chain-export.json", ancestor.round):
            require(ancestor.deployment > number, f"deployment {ancestor.deployment} follows {number}")
            require(ancestor.parent == parent, f"{ancestor.model[:12]} does not come from the model before it")
        number = ancestor.deployment
        if ancestor.model not in task.rolled_back:
            parent = ancestor.model
    for round_, line in task.rounds.items():
        if line.record.model != NO_DIGEST and evidence.blob(line.record.model) is None:
            where = evidence.name(evidence.blob_path(line.record.model))
            if line.record.state in (RoundState.APPROVED, RoundState.DEPLOYED):
                book.fault(where, "an approved model is missing", round_)
            else:
                book.absent(
                    where, f"not kept: the candidate of a round that is {line.record.state.name.lower()}", round_
                )


def check_models(task: TaskLine, evidence: Evidence, book: Book) -> None:
    """Every file that is named by a digest holds those bytes; every model that an agent keeps was approved."""
    for digest, path in evidence.named_by_digest():
        with book.checking("models", evidence.name(path)):
            require(sha256(path.read_bytes()) == digest, "its bytes are not those that its name says")
            in_use = path.parent.name == "models" and evidence.name(path).startswith("agents/")
            require(not in_use or digest in task.approved, "an agent keeps a model that was never approved")
