"""A round's heavy work, for worker processes: coordinator and validators do the same, on bytes and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemel.sealing.budget import budget_of
from gemel.sealing.frames import FrameShape, OpenedSum, apply_update, check_frame, mean_update
from gemel.sealing.summer import Summer
from gemel.wire import tensors
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import Digest, sha256


def check_context(context: bytes, policy: SealingPolicy, parameters: int) -> Digest:
    """The context's digest. Raises ConfigError if it holds a secret key, Refused if it is not of this policy."""
    Summer(context, policy, parameters)
    return sha256(context)


def check_body(frame: bytes, policy: SealingPolicy, parameters: int, context: Digest) -> None:
    """Raises Refused unless what stands behind a frame's header is a sealed update of this round's shape."""
    check_frame(frame[HEADER_BYTES:], FrameShape(budget_of(policy, parameters), context))


def add_frames(context: bytes, policy: SealingPolicy, parameters: int, frames: Sequence[Path]) -> bytes:
    """The sealed sum of frame files, in that order, read one at a time. Deterministic."""
    summer = Summer(context, policy, parameters)
    for path in frames:
        summer.add(path.read_bytes()[HEADER_BYTES:])
    return summer.sum()


def candidate_model(base: bytes, opened: bytes, policy: SealingPolicy, contributors: int, weight: int) -> bytes:
    """The candidate's safetensors: base plus the weighted mean update. Every party computes the same bytes.

    Raises Malformed for an opened sum that these contributors cannot have made.
    """
    model = tensors.from_bytes(base)
    manifest = tensors.manifest_of(model)
    total = OpenedSum.parse(opened, policy, parameters=manifest.size, contributors=contributors)
    vector = apply_update(tensors.flatten(model), mean_update(total, policy, weight))
    return tensors.to_bytes(tensors.unflatten(vector, manifest))
