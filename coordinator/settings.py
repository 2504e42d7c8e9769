"""What the coordinator is told at start (TOML; see gemel/host/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.wire.messages import Policy


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How rounds are run. Times are in seconds."""

    policy: Policy
    seed: int
    rounds: int | None  # None: without end
    pause_s: int
    context_s: int
    commit_s: int
    reveal_s: int
    decide_s: int
    keep_frames: bool
