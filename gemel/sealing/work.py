"""What services hand to their worker processes: plain functions whose arguments and results pickle well.

Each builds what it needs from bytes (a few milliseconds) and keeps nothing. The custodian's are in opener.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemel.sealing.ports import Sealed, SealerPort, SummerPort
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector


def seal_update(context: bytes, policy: SealingPolicy, vector: Vector, weight: int, residual: Vector) -> Sealed:
    """Seal one update with the round's public context; see SealerPort.seal."""
    sealer: SealerPort = Sealer(context, policy, vector.size)
    return sealer.seal(vector, weight, residual)


def sum_frames(
    context: bytes, policy: SealingPolicy, parameters: int, frame_paths: Sequence[Path], *, skip_bytes: int = 0
) -> bytes:
    """The sealed sum of the frames in these files, read one at a time; see SummerPort.

    `skip_bytes` is what stands before the frame in each file: its signed header, where that is kept with it. Raises
    Refused for the first frame that does not hold, OSError for a file that cannot be read.
    """
    summer: SummerPort = Summer(context, policy, parameters)
    for path in frame_paths:
        summer.add(path.read_bytes()[skip_bytes:])
    return summer.sum()
