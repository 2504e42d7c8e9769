"""What the registries' views answer, as the Chain port has it: for the chain client and for the auditor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemel.ports import PartyRecord, Role, RoundRecord, RoundState, TaskRecord

View = Mapping[str, Any]  # a struct by field name, as contract_abi decodes it


def task_record(view: View) -> TaskRecord:
    """RoundRegistry.task."""
    return TaskRecord(
        threshold=view["threshold"],
        max_regression=view["maxRegression"],
        minimum_owners=view["minimumOwners"],
        quorum_part=view["quorumPart"],
        last_round=view["lastRound"],
        deployment=view["deployment"],
        model=view["model"],
        policy=view["policy"],
    )


def round_record(view: View) -> RoundRecord:
    """RoundRegistry.round."""
    return RoundRecord(
        state=RoundState(view["state"]),
        base=view["base"],
        policy=view["policy"],
        roster_root=view["rosterRoot"],
        updates_root=view["updatesRoot"],
        sum_digest=view["sumDigest"],
        owners=view["owners"],
        weight=view["weight"],
        opened=view["opened"],
        model=view["model"],
        explanation=view["explanation"],
        deployment=view["deployment"],
        accuracy=view["accuracy"],
        baseline=view["baseline"],
        epoch=view["epoch"],
        opened_block=view["openedBlock"],
    )


def party_record(view: View) -> PartyRecord:
    """DeviceRegistry.party."""
    return PartyRecord(view["account"], view["owner"], Role(view["role"]), view["box"], view["active"])
