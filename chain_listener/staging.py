"""How an approved model reaches the fleet: a few agents first, then all, or back. Pure; deploying.py acts on it.

    stage       what the bus holds              next
    canaries    the approval, for the canaries  they are well → fleet; one is not, or too few in time → going back
    fleet       the approval, for everybody     all run it, or those who do in time, and it is on chain → stands
    going back  the approval, for the canaries  the chain has recorded it → restoring
    restoring   what it held before             a quorum says what is in use again → stands
    stands      what the fleet is to run        the chain's next word

The chain has the last word in each: a deployment above the one on the bus begins anew, whatever the stage. Once a
canary has said that its model is unwell, nothing that it says later of that deployment counts. So the order in which
reports come, and come again, changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

import msgspec
from msgspec.structs import replace

from gemel.wire.messages import Deployment, Installed, Restored
from gemel.wire.types import Address, Millis, sha256


class Stage(StrEnum):
    """See the table above."""

    CANARIES = "canaries"
    FLEET = "fleet"
    GOING_BACK = "going_back"
    RESTORING = "restoring"
    STANDS = "stands"


@dataclass(frozen=True, slots=True)
class StagingPolicy:
    """How carefully a model goes out. Shares are of the active agents, then of the canaries among them."""

    canary_share: float = 0.25  # rounded up; 1: everybody at once, and nobody tries it first
    canary_patience_s: float = 300.0  # to install it, and to say how it does
    unhealthy_share: float = 0.0  # of the canaries may be unwell; with more it goes back
    healthy_share: float = 0.5  # of the canaries must be well when the patience ends, and at least one
    patience_s: float = 120.0  # for the fleet to install it; after that those that have it count


class Rollout(msgspec.Struct, frozen=True):
    """One deployment on its way, and what agents said of it. `since_ms`: when its stage began."""

    round: int
    body: Deployment
    stage: Stage
    since_ms: Millis
    installed: frozenset[Address] = frozenset()
    healthy: frozenset[Address] = frozenset()
    unhealthy: frozenset[Address] = frozenset()

    @property
    def canaries(self) -> frozenset[Address]:
        """Who tries it first."""
        return frozenset(self.body.canaries or ())


def choose_canaries(deployment: int, agents: Collection[Address], share: float) -> tuple[Address, ...]:
    """Others with each deployment, and the same for everybody who knows the agents; at least one."""
    count = max(1, ceil(round(share * len(agents), 9)))
    return tuple(sorted(agents, key=lambda address: sha256(f"{deployment}/{address}".encode()))[:count])


def approved(
    round_: int, body: Deployment, agents: Collection[Address], policy: StagingPolicy, now_ms: Millis
) -> Rollout:
    """What the chain approved begins: M0, which replaces nothing, with everybody."""
    if round_ == 0 or policy.canary_share >= 1 or not agents:
        return Rollout(round_, body, Stage.FLEET, now_ms)
    canaries = choose_canaries(body.deployment, agents, policy.canary_share)
    return Rollout(round_, replace(body, canaries=canaries), Stage.CANARIES, now_ms)


def rolled_back(round_: int, body: Deployment, now_ms: Millis) -> Rollout:
    """The chain went back. `body` lacks what agents believe it by: that follows with `confirmed`."""
    return Rollout(round_, body, Stage.RESTORING, now_ms)


def heard(rollout: Rollout, device: Address, report: Installed) -> Rollout:
    """After an agent's report; one of another deployment, and a refusal, change nothing."""
    if (report.deployment, report.model) != (rollout.body.deployment, rollout.body.model):
        return rollout
    if report.outcome == "refused":
        return rollout
    rollout = replace(rollout, installed=rollout.installed | {device})
    if device not in rollout.canaries:
        return rollout
    if report.outcome == "unhealthy":
        return replace(rollout, healthy=rollout.healthy - {device}, unhealthy=rollout.unhealthy | {device})
    if report.outcome == "healthy" and device not in rollout.unhealthy:
        return replace(rollout, healthy=rollout.healthy | {device})
    return rollout


def judged(rollout: Rollout, policy: StagingPolicy, now_ms: Millis) -> Rollout:
    """The canaries' stage, or the one that follows from what they have said, or not said, by now."""
    if rollout.stage is not Stage.CANARIES:
        return rollout
    total, well, unwell = len(rollout.canaries), len(rollout.healthy), len(rollout.unhealthy)
    if unwell > policy.unhealthy_share * total:
        return replace(rollout, stage=Stage.GOING_BACK, since_ms=now_ms)
    if well + unwell < total and not _is_over(rollout, policy.canary_patience_s, now_ms):
        return rollout
    if well >= max(1, policy.healthy_share * total):
        return for_everybody(rollout, now_ms)
    return replace(rollout, stage=Stage.GOING_BACK, since_ms=now_ms)


def for_everybody(rollout: Rollout, now_ms: Millis) -> Rollout:
    """The same deployment for the whole fleet."""
    return replace(rollout, body=replace(rollout.body, canaries=None), stage=Stage.FLEET, since_ms=now_ms)


def deployed(rollout: Rollout, now_ms: Millis) -> Rollout:
    """The chain has it that the fleet runs it."""
    return replace(for_everybody(rollout, now_ms), stage=Stage.STANDS)


def is_out(rollout: Rollout, agents: Collection[Address], policy: StagingPolicy, now_ms: Millis) -> bool:
    """Whether everybody runs it, or time is up and somebody does."""
    everybody = rollout.installed.issuperset(agents)
    return bool(rollout.installed) and (everybody or _is_over(rollout, policy.patience_s, now_ms))


def confirmed(rollout: Rollout, restored: Restored, now_ms: Millis) -> Rollout:
    """A quorum says what is in use again: that goes to everybody."""
    body = replace(rollout.body, restored=restored, epoch=restored.facts.epoch)
    return replace(rollout, body=body, stage=Stage.STANDS, since_ms=now_ms)


def why_back(rollout: Rollout) -> str:
    """One line."""
    said = f"{len(rollout.healthy)} well, {len(rollout.unhealthy)} unwell"
    return f"of {len(rollout.canaries)} canaries {len(rollout.installed)} installed it: {said}"


def _is_over(rollout: Rollout, patience_s: float, now_ms: Millis) -> bool:
    return now_ms >= rollout.since_ms + patience_s * 1000
