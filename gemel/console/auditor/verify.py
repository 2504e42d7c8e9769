"""The whole audit of a kept fleet."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.console.auditor import chain, fleet, rounds
from gemel.console.auditor.book import Book, Finding
from gemel.console.auditor.case import RoundCase
from gemel.console.auditor.chain import replay_chain
from gemel.console.auditor.contradictions import check_contradictions
from gemel.console.auditor.deployment_log import check_deployment_log
from gemel.console.auditor.evidence import load_evidence
from gemel.console.auditor.fleet import check_fleet
from gemel.console.auditor.ledger import RoundLine
from gemel.console.auditor.lineage import Ancestor, check_lineage, check_models, lineage_of
from gemel.console.auditor.rounds import check_round
from gemel.wire.types import Count, Ppm

NOT_COVERED = (*chain.NOT_COVERED, *fleet.NOT_COVERED, *rounds.NOT_COVERED)


class RoundVerdict(msgspec.Struct, frozen=True):
    """A round as the replayed votes decide it."""

    round: Count
    state: str
    verdict: str  # approved, no_quorum, below_threshold, regression, or «none»
    approvals: Count
    votes: Count
    accuracy: Ppm
    baseline: Ppm


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit says. It holds if there are no findings; what was not kept or is not covered was not checked."""

    fleet: str
    task: str
    last_block: Count
    findings: tuple[Finding, ...]
    not_kept: tuple[Finding, ...]
    not_covered: tuple[str, ...]
    held: dict[str, int]  # by kind: how many things were checked and fit
    rounds: tuple[RoundVerdict, ...]
    lineage: tuple[Ancestor, ...]
    exceptions: tuple[str, ...] = ()  # what the policy gives up of what sealing promises, and by whose word

    @property
    def holds(self) -> bool:
        """Whether nothing was found that does not fit."""
        return not self.findings


def audit(directory: Path) -> AuditReport:
    """Check everything that is kept in `directory`. Raises ConfigError where it cannot be read."""
    evidence, book = load_evidence(directory), Book()
    ledger = replay_chain(evidence.export_bytes, book)
    task = check_fleet(evidence, ledger, book)
    if task is not None:
        for number, line in sorted(task.rounds.items()):
            check_round(RoundCase(evidence, ledger, number, line, book))
        check_lineage(ledger, task, evidence, book)
        check_models(task, evidence, book)
        check_deployment_log(evidence, ledger, task, book)
        check_contradictions(evidence, ledger, task, book)
    return AuditReport(
        fleet=evidence.trust.fleet,
        task=evidence.trust.task,
        last_block=max((block.number for block in evidence.export.blocks), default=0),
        findings=tuple(book.findings),
        not_kept=tuple(book.not_kept),
        not_covered=NOT_COVERED,
        exceptions=(evidence.policy.exception,) if evidence.policy.exception else (),
        held=dict(book.held),
        rounds=tuple(_verdict(number, line) for number, line in sorted(task.rounds.items())) if task else (),
        lineage=lineage_of(ledger, task) if task else (),
    )


def _verdict(number: int, line: RoundLine) -> RoundVerdict:
    return RoundVerdict(
        round=number,
        state=line.record.state.name.lower(),
        verdict=line.verdict_name,
        approvals=sum(vote.approved for vote in line.votes),
        votes=len(line.votes),
        accuracy=line.record.accuracy,
        baseline=line.record.baseline,
    )
