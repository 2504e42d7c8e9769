"""One round, all of it: what is kept against what the chain says."""

from __future__ import annotations

from gemel.adapters.contract_abi import QUALITY_VOTES
from gemel.console.auditor.book import require
from gemel.console.auditor.case import RoundCase
from gemel.console.auditor.ciphertexts import check_ciphertexts
from gemel.console.auditor.messages import check_aggregate, check_invitation, check_opening, check_roster
from gemel.console.fleet_files import EXPORT_FILE
from gemel.sealing.candidate import candidate_model
from gemel.wire import tensors
from gemel.wire.eip712 import task_id
from gemel.wire.types import NO_DIGEST, sha256

NOT_COVERED = (
    "round.json, budget.md and measurement.json: the coordinator's own notes, but for what it claims on chain",
    "reference sets: that a validator measured what it signed, only it can know",
)


def check_round(case: RoundCase) -> None:
    """Signed messages, ciphertexts, opening, candidate, explanation. Round 0 has none: M0 needs votes only."""
    with case.book.checking("policies", case.evidence.name(case.evidence.policy_path), case.number):
        require(case.record.policy == case.policy.digest, "is not the policy of this round on chain")
    if case.number == 0:
        return
    check_invitation(case)
    roster = check_roster(case)
    included = check_aggregate(case, roster)
    base = case.evidence.blob(case.record.base)
    check_ciphertexts(case, None if base is None else _parameters(case, base), roster, included)
    check_opening(case)
    _check_opened_sum(case, base)
    _check_explanation(case)
    _check_claim(case)


def _parameters(case: RoundCase, base: bytes) -> int | None:
    path = case.evidence.name(case.evidence.blob_path(case.record.base))
    with case.book.checking("base models", path, case.number):
        return tensors.manifest_of(tensors.from_bytes(base)).size
    return None


def _check_opened_sum(case: RoundCase, base: bytes | None) -> None:
    """Its digest, and the candidate that follows from it."""
    record, opened = case.record, case.part("opened")
    if opened is None:
        case.missing("opened", "the candidate was not recomputed")
        return
    with case.checking("opened sums", "opened"):
        require(sha256(opened) == record.opened, "is not the opened sum whose digest is on chain")
    if base is None or record.model == NO_DIGEST:
        return
    with case.checking("candidates recomputed", "opened"):
        model = sha256(candidate_model(base, opened, case.policy.sealing, record.weight))
        require(model == record.model, f"base and opened sum make {model[:12]}, on chain is {record.model[:12]}")


def _check_explanation(case: RoundCase) -> None:
    digest, stored = case.record.explanation, case.part("explanation.json")
    if stored is None:
        case.missing("explanation.json", "its digest was not compared")
        return
    with case.checking("explanations", "explanation.json"):
        require(digest in (NO_DIGEST, sha256(stored)), "is not the explanation whose digest is on chain")


def _check_claim(case: RoundCase) -> None:
    """What the coordinator says that its candidate can do, against what validators have measured.

    Reference sets differ, and so does what is measured on them: from the next vote by no more than the tolerance,
    beyond which a vote earns nothing.
    """
    claims = [
        int(str(event.values["accuracy"]))
        for event in case.ledger.events
        if event.name == "CandidateProposed"
        and (event.values["task"], event.values["round"]) == (task_id(case.trust.task), case.number)
    ]
    if not claims or not case.line.votes or case.line.verdict is None:
        return
    (claimed,) = claims
    tolerance = case.ledger.view(QUALITY_VOTES, "terms")["tolerance"]
    with case.book.checking("claims", EXPORT_FILE, case.number):
        require(
            min(abs(claimed - vote.accuracy) for vote in case.line.votes) <= tolerance,
            f"the coordinator claims an accuracy of {claimed / 1e6:.6f}, and no validator measured anything near it; "
            f"their median is {case.record.accuracy / 1e6:.6f}",
        )
