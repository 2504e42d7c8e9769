"""Where models come from: the approved ones from M0 to the one in use, and their bytes."""

from __future__ import annotations

import msgspec

from gemel.console.auditor.book import Book, require
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import TaskLine
from gemel.ports import RoundState
from gemel.wire.types import NO_DIGEST, Count, Digest, Ppm, sha256


class Ancestor(msgspec.Struct, frozen=True):
    """One approved model, with what decided it."""

    deployment: Count
    round: Count
    model: Digest
    parent: Digest
    updates_root: Digest
    owners: Count
    weight: Count
    approvals: Count
    votes: Count
    accuracy: Ppm
    baseline: Ppm
    state: str
    transaction: Digest
    block: Count


def lineage_of(task: TaskLine) -> tuple[Ancestor, ...]:
    """All approved models, M0 first."""
    ancestors = []
    for model, number in task.approved.items():
        line = task.rounds[number]
        assert line.decided_in is not None  # it is approved
        ancestors.append(
            Ancestor(
                deployment=line.record.deployment,
                round=number,
                model=model,
                parent=line.record.base,
                updates_root=line.record.updates_root,
                owners=line.record.owners,
                weight=line.record.weight,
                approvals=sum(vote.approved for vote in line.votes),
                votes=len(line.votes),
                accuracy=line.record.accuracy,
                baseline=line.record.baseline,
                state=line.record.state.name.lower(),
                transaction=line.decided_in[0],
                block=line.decided_in[1],
            )
        )
    return tuple(sorted(ancestors, key=lambda ancestor: ancestor.deployment))


def check_lineage(task: TaskLine, evidence: Evidence, book: Book) -> None:
    """Deployment numbers rise, each parent is the last model that was not given up, and the kept bytes are theirs."""
    parent, number = NO_DIGEST, 0
    for ancestor in lineage_of(task):
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
