"""A pulled transfer becomes a frame on disk: work for a worker process, which reads and writes the files itself.

With five million parameters that is 60 ms of CPU for a frame under bfv-packed and a second under ckks (200 MB), so it
stays out of the event loops of coordinator and validators; and what a worker holds is one frame, however many come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gemel.exchange.admission import Terms, open_frame
from gemel.exchange.round_folder import write_whole
from gemel.sealing.work import check_body
from gemel.wire.messages import Entry
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
