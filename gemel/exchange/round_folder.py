"""A round on disk: what the coordinator spools while it runs, and what the auditor reads afterwards.

    round.json              the round machine's state, times of every phase included
    context                 public sealing context
    budget.md               what the policy costs, and what was excepted
    invitation, roster, aggregate, opening     signed envelopes as they travelled
    frames/<device>         update header and sealed body
    sum                     ciphertext
    opened                  the opened sum
    explanation.json        LIME and gradient attributions
    measurement.json        what the coordinator measured, and how far explanations drifted

Whoever keeps frames keeps what a sealing key would open; the custodian destroys that key when the round is final.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from gemel.wire.types import Address

PARTS = frozenset(
    {
        "context",
        "budget.md",
        "invitation",
        "roster",
        "aggregate",
        "opening",
        "sum",
        "opened",
        "explanation.json",
        "measurement.json",
        "round.json",
    }
)


class RoundFolder:
    """`<state dir>/rounds/<number>`."""

    def __init__(self, state_dir: Path, number: int) -> None:
        self.path = state_dir / "rounds" / f"{number:06d}"
        self.frames = self.path / "frames"

    async def write(self, part: str, data: bytes) -> Path:
        """Store one part, whole or not at all."""
        if part not in PARTS:
            raise ValueError(part)
        return await asyncio.to_thread(write_whole, self.path / part, data)

    @property
    def sum(self) -> Path:
        """Where the sum lies, for those who write it themselves."""
        return self.path / "sum"

    async def drop_frame(self, device: Address) -> None:
        """Remove one device's frame, which is not to be added."""
        await asyncio.to_thread((self.frames / device).unlink, missing_ok=True)

    async def read(self, part: str) -> bytes:
        """One part. Raises FileNotFoundError."""
        return await asyncio.to_thread((self.path / part).read_bytes)

    async def drop_spool(self) -> None:
        """Remove ciphertexts and the opened sum; the signed messages stay."""

        def drop() -> None:
            shutil.rmtree(self.frames, ignore_errors=True)
            for part in ("sum", "opened", "context"):
                (self.path / part).unlink(missing_ok=True)

        await asyncio.to_thread(drop)


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file, whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.write_bytes(data)
    scratch.rename(path)
    return path
