"""How much of its twins a registry keeps, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept: how much, and for how long."""

    machines: int = 20_000  # twins, and agents
    revisions: int = 10_000  # whole documents of each machine
    samples: int = 10_000_000  # readings of each machine
    events: int = 1_000_000
    revisions_ms: int = 30 * 86_400_000
    samples_ms: int = 30 * 86_400_000
    minutes_ms: int = 5 * 366 * 86_400_000
    events_ms: int = 366 * 86_400_000
