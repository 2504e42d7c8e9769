"""Pulled transfers become frames on disk, and frames a sum: work for worker processes, from file to file.

With five million parameters a frame takes 60 ms of CPU under bfv-packed and a second under ckks (200 MB), so this
stays out of the event loops of coordinator and validators; even a result of that size would stop one for 200 ms on
its way back. What a worker holds is one frame, however many come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gemel.exchange.admission import Terms, open_frame
from gemel.exchange.round_folder import write_whole
from gemel.exchange.transfers import describe
from gemel.sealing.work import check_body, sum_frames
from gemel.wire.chunks import Transfer
from gemel.wire.messages import Entry, SealingPolicy
from gemel.wire.types import Digest


@dataclass(frozen=True, slots=True)
class Intake:
    """What every frame of one round is opened with and has to fit."""

    terms: Terms
    parameters: int
    context: Digest
    box_secret: bytes = field(repr=False)


def take_in(wrapped: Path, frame: Path, entry: Entry, intake: Intake) -> None:
    """Write to `frame`, whole or not at all, what the transfer in `wrapped` holds, if that is the entry's update.

    Raises PeerError as admission.open_frame and sealing.work.check_body, OSError for files.
    """
    opened = open_frame(wrapped.read_bytes(), entry, intake.terms, intake.box_secret)
    check_body(opened, intake.terms.policy.sealing, intake.parameters, intake.context)
    write_whole(frame, opened)


def add_up(
    context: bytes, policy: SealingPolicy, parameters: int, frames: Sequence[tuple[Path, int]], total: Path
) -> Transfer:
    """Write to `total` the sealed sum of these frames, each at its level; the transfer that it makes.

    Raises as sealing.work.sum_frames.
    """
    added = sum_frames(context, policy, parameters, frames)
    write_whole(total, added)
    return describe(added)
