"""Models as bytes and as one vector: there and back without loss, and nothing else is a model."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from gemel.errors import Malformed
from gemel.wire.tensors import Manifest, Model, Tensor, flatten, from_bytes, manifest_of, to_bytes, unflatten

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=FINITE)
MODELS = st.dictionaries(st.from_regex(r"[a-z][a-z.0-9]{0,8}", fullmatch=True), ARRAYS, min_size=1, max_size=4)
SMALL: Model = {"b": np.zeros(3, np.float32), "a": np.ones((2, 2), np.float32)}


def same(one: Model, other: Model) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes() for name in one
    )


@given(MODELS)
def test_model_is_the_same_after_bytes(model: Model) -> None:
    assert same(from_bytes(to_bytes(model), manifest_of(model)), model)


@given(MODELS)
def test_model_is_the_same_after_one_vector(model: Model) -> None:
    vector, manifest = flatten(model), manifest_of(model)
    assert vector.shape == (manifest.size,)
    assert vector.dtype == np.float32
    assert same(unflatten(vector, manifest), model)


@given(MODELS)
def test_equal_models_give_equal_bytes_whatever_the_order_of_their_names(model: Model) -> None:
    assert to_bytes(dict(reversed(model.items()))) == to_bytes(model)


def test_vector_holds_tensors_by_sorted_name_in_c_order() -> None:
    model: Model = {"b": np.array([5, 6], np.float32), "a": np.array([[1, 2], [3, 4]], np.float32, order="F")}
    assert flatten(model).tolist() == [1, 2, 3, 4, 5, 6]
    assert same(from_bytes(to_bytes(model)), model)


def test_tensors_of_a_vector_are_copies() -> None:
    vector = flatten(SMALL)
    unflatten(vector, manifest_of(SMALL))["a"][:] = 9
    assert vector.tolist() == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("vector", [np.zeros(6, np.float32), np.zeros(8, np.float32), np.zeros((7, 1), np.float32)])
def test_vector_of_another_length_is_malformed(vector: np.ndarray) -> None:
    with pytest.raises(Malformed, match="manifest has 7 parameters"):
        unflatten(vector, manifest_of(SMALL))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_bytes(data, manifest_of(SMALL))


@given(st.integers(0, len(to_bytes(SMALL)) - 1), st.integers(1, 255))
def test_changed_byte_gives_a_model_of_this_task_or_is_malformed(offset: int, mask: int) -> None:
    data = bytearray(to_bytes(SMALL))
    data[offset] ^= mask
    try:
        model = from_bytes(bytes(data), manifest_of(SMALL))
    except Malformed:
        return
    assert manifest_of(model) == manifest_of(SMALL)
    assert np.isfinite(flatten(model)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_model_with_a_value_that_is_not_finite_is_malformed(value: float) -> None:
    data = save({"a": np.array([0, value], np.float32)})
    with pytest.raises(Malformed, match="not finite"):
        from_bytes(data)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_])
def test_model_of_another_number_type_is_malformed(dtype: type) -> None:
    with pytest.raises(Malformed, match="float32 expected"):
        from_bytes(save({"a": np.zeros(2, dtype)}))


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.ones((2, 2), np.float32)},
        {"a": np.ones((4,), np.float32), "b": np.zeros(3, np.float32)},
        {**SMALL, "c": np.zeros(1, np.float32)},
    ],
    ids=["missing", "reshaped", "surplus"],
)
def test_model_of_another_task_is_malformed(other: Model) -> None:
    with pytest.raises(Malformed, match="not those of this task"):
        from_bytes(to_bytes(other), manifest_of(SMALL))


def crafted(header: object) -> bytes:
    """safetensors bytes with a header of our making over eight bytes of data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}},
        {"a": 1},
        [],
    ],
)
def test_crafted_header_is_malformed(header: object) -> None:
    with pytest.raises(Malformed):
        from_bytes(crafted(header))


def test_header_that_claims_more_bytes_than_there_are_is_malformed() -> None:
    with pytest.raises(Malformed):
        from_bytes(struct.pack("<Q", 2**63) + b"{}")


def test_size_of_a_manifest_counts_parameters() -> None:
    assert Manifest((Tensor("a", (3, 4)), Tensor("b", ()), Tensor("c", (5, 0)))).size == 13
