"""Models and updates as bytes and as one flat vector.

A model is a mapping name → float32 array. On disk and on the wire it is safetensors, its digest the SHA-256 of
those bytes; for sealing it becomes one vector, tensors in the order of their sorted names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gemel.errors import Malformed
from gemel.wire.types import Count

Model = dict[str, NDArray[np.float32]]
Vector = NDArray[np.float32]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a manifest."""

    name: str
    shape: tuple[Count, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a flat vector divides into tensors."""

    tensors: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(t.shape) for t in self.tensors)


def manifest_of(model: Mapping[str, NDArray[np.float32]]) -> Manifest:
    """The manifest of a model: names sorted."""
    return Manifest(tuple(Tensor(name, tuple(model[name].shape)) for name in sorted(model)))


def flatten(model: Mapping[str, NDArray[np.float32]]) -> Vector:
    """All parameters as one float32 vector, tensors by sorted name, each in C order."""
    return np.concatenate([np.asarray(model[name], np.float32).reshape(-1) for name in sorted(model)])


def unflatten(vector: Vector, manifest: Manifest) -> Model:
    """The inverse of `flatten`. Raises Malformed where the length does not fit."""
    if vector.shape != (manifest.size,):
        raise Malformed("vector", f"shape {vector.shape}, manifest has {manifest.size} parameters")
    model: Model = {}
    start = 0
    for tensor in manifest.tensors:
        stop = start + math.prod(tensor.shape)
        model[tensor.name] = vector[start:stop].reshape(tensor.shape).astype(np.float32, copy=True)
        start = stop
    return model


def to_bytes(model: Mapping[str, NDArray[np.float32]]) -> bytes:
    """safetensors, deterministic: equal models give equal bytes."""
    return bytes(save({name: np.asarray(model[name], np.float32, order="C") for name in sorted(model)}))


def from_bytes(data: bytes, manifest: Manifest | None = None) -> Model:
    """Read safetensors. Raises Malformed for broken bytes, other types, non-finite values or another manifest."""
    try:
        model = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Malformed("model", f"not safetensors: {error}") from error
    for name, array in model.items():
        if array.dtype != np.float32:
            raise Malformed("model", f"{name} is {array.dtype}, float32 expected")
        if not np.isfinite(array).all():
            raise Malformed("model", f"{name} has values that are not finite")
    if manifest is not None and manifest_of(model) != manifest:
        raise Malformed("model", "tensors are not those of this task")
    return dict(model)
