"""From an opened sum to a candidate model: coordinator and validators must compute the same bytes. Pure."""

from __future__ import annotations

import numpy as np

from gemel.errors import Refused
from gemel.sealing.frames import OpenedSum
from gemel.sealing.packing import largest_value
from gemel.wire import tensors
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector


def candidate_model(base: bytes, opened: bytes, policy: SealingPolicy, total_weight: int) -> bytes:
    """The candidate as safetensors: the base model (safetensors) plus the mean of the opened sum.

    `total_weight` is the sum of level · n_k over the updates in the sum. Raises Malformed for bytes that are no model
    or no opened sum of this policy, Refused(overweight) as `mean_update`.
    """
    model = tensors.from_bytes(base)
    manifest = tensors.manifest_of(model)
    mean = mean_update(OpenedSum.parse(opened, policy, manifest.size), policy, total_weight)
    return tensors.to_bytes(tensors.unflatten(apply_update(tensors.flatten(model), mean), manifest))


def mean_update(opened: OpenedSum, policy: SealingPolicy, total_weight: int) -> Vector:
    """The weighted mean, sum of level · n_k · update_k over sum of level · n_k, from the opened integers.

    float64 until the last step: every party computes the same bytes. Raises Refused(overweight) for a total weight
    that so many contributors under the policy's cap cannot have.
    """
    if not opened.contributors <= total_weight <= opened.contributors * policy.weight_cap:
        raise Refused(Reason.OVERWEIGHT, f"total weight {total_weight} of {opened.contributors} contributors")
    step = policy.clip / largest_value(policy.bits)
    return (opened.sums.astype(np.float64) * (step * policy.weight_cap / total_weight)).astype(np.float32)


def apply_update(base: Vector, mean: Vector) -> Vector:
    """The candidate: base + mean, added in float64 and rounded once."""
    if base.shape != mean.shape:
        raise ValueError(f"base {base.shape} and mean {mean.shape} differ")
    return (base.astype(np.float64) + mean.astype(np.float64)).astype(np.float32)
