from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.errors import Malformed, Refused
from gemel.sealing.budget import BODY_HEADER_BYTES, CHUNK_BYTES, MODULUS, RING_DEGREE, budget_of
from gemel.sealing.candidate import apply_update, candidate_model, mean_update
from gemel.sealing.frames import BodyKind, BodyShape, OpenedSum, body_words, check_body, pack_body
from gemel.wire import tensors
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason

POLICY = SealingPolicy("bfv-packed", 8, 0.1, 10, 1000)
BUDGET = budget_of(POLICY, 13_000)  # two chunks
SHAPE = BodyShape(BUDGET, "ab" * 32)
WORDS = np.random.default_rng(0).integers(0, MODULUS, (2, 2, RING_DEGREE), np.uint64)
BODY = pack_body(SHAPE, WORDS)


def reason_of(body: bytes, shape: BodyShape = SHAPE) -> Reason:
    with pytest.raises(Refused) as refusal:
        check_body(body, shape)
    return Reason(refusal.value.reason)


def with_bytes(offset: int, data: bytes) -> bytes:
    return BODY[:offset] + data + BODY[offset + len(data) :]


def with_word(chunk: int, index: int, word: int) -> bytes:
    return with_bytes(BODY_HEADER_BYTES + chunk * CHUNK_BYTES + index * 7, word.to_bytes(7, "little"))


def test_body_has_the_length_that_the_budget_promised_and_its_words_come_back():
    assert len(BODY) == BUDGET.body_bytes
    check_body(BODY, SHAPE)
    assert np.array_equal(np.stack(list(body_words(BODY))), WORDS)


def test_largest_and_smallest_words_come_back():
    words = WORDS.copy()
    words[0, 0, 0], words[1, 1, -1] = 0, MODULUS - 1
    body = pack_body(SHAPE, words)
    check_body(body, SHAPE)
    assert np.array_equal(np.stack(list(body_words(body))), words)


@pytest.mark.parametrize(
    "plain",
    [b"", b"GSEL", np.ones(13_000, np.float32).tobytes(), tensors.to_bytes({"w": np.ones(13_000, np.float32)})],
    ids=["empty", "magic alone", "float32", "safetensors"],
)
def test_update_in_plaintext_is_refused(plain):
    assert reason_of(plain) == Reason.PLAINTEXT


@pytest.mark.parametrize(("offset", "what"), [(4, "version"), (5, "scheme"), (6, "kind"), (7, "reserved")])
def test_body_of_another_version_scheme_or_kind_is_malformed(offset, what):
    assert reason_of(with_bytes(offset, b"\x07")) == Reason.MALFORMED, what


def test_sum_is_not_taken_for_an_update_nor_an_update_for_a_sum():
    as_sum = replace(SHAPE, kind=BodyKind.SUM, contributors=3)
    assert reason_of(BODY, as_sum) == Reason.MALFORMED
    assert reason_of(pack_body(as_sum, WORDS)) == Reason.MALFORMED


def test_sum_of_another_number_of_contributors_is_refused():
    body = pack_body(replace(SHAPE, kind=BodyKind.SUM, contributors=3), WORDS)
    assert reason_of(body, replace(SHAPE, kind=BodyKind.SUM, contributors=4)) == Reason.FORGED_SIZE


@pytest.mark.parametrize("offset", [8, 12, 16, 20, 24, 32])
@pytest.mark.parametrize("forged", [0, 3, 2**31, 2**32 - 1])
def test_forged_count_or_size_is_refused_before_anything_is_read_with_it(offset, forged):
    assert reason_of(with_bytes(offset, forged.to_bytes(4, "little"))) == Reason.FORGED_SIZE


def test_body_sealed_for_another_rounds_context_is_refused():
    assert reason_of(BODY, replace(SHAPE, context="cd" * 32)) == Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("cut", [1, 7, CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_truncated_or_extended_body_is_refused(cut):
    assert reason_of(BODY[:-cut]) == Reason.WRONG_LENGTH
    assert reason_of(BODY + b"\0" * cut) == Reason.WRONG_LENGTH


@pytest.mark.parametrize("word", [MODULUS, MODULUS + 1, 2**54, 2**56 - 1])
@pytest.mark.parametrize(("chunk", "index"), [(0, 0), (1, 2 * RING_DEGREE - 1)])
def test_coefficient_not_below_the_modulus_is_malformed(word, chunk, index):
    assert reason_of(with_word(chunk, index, word)) == Reason.MALFORMED


def test_ciphertext_that_hides_nothing_is_refused_as_plaintext():
    words = WORDS.copy()
    words[1, 1] = 0
    assert reason_of(pack_body(SHAPE, words)) == Reason.PLAINTEXT


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_and_never_crash(data):
    for body in (data, BODY[:4] + data, BODY[:BODY_HEADER_BYTES] + data):
        with pytest.raises(Refused):
            check_body(body, SHAPE)


@given(st.integers(0, BODY_HEADER_BYTES - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_of_the_header_is_refused(offset, difference):
    with pytest.raises(Refused):
        check_body(with_bytes(offset, bytes([BODY[offset] ^ difference])), SHAPE)


# --- the opened sum and what everybody computes from it ------------------------------------------

SUMS = np.array([0, 1, -1, 1270, -1270], np.int64)  # ± 127 · 10 is the limit of ten contributors


def test_opened_sum_comes_back_as_it_was_packed():
    opened = OpenedSum.parse(OpenedSum(10, SUMS).pack(POLICY), POLICY, 5)
    assert opened.contributors == 10
    assert np.array_equal(opened.sums, SUMS)


def test_opened_sum_beyond_its_contributors_is_malformed():
    with pytest.raises(Malformed, match="outside"):
        OpenedSum.parse(OpenedSum(9, SUMS).pack(POLICY), POLICY, 5)


@pytest.mark.parametrize("contributors", [0, 11, 2**32 - 1])
def test_opened_sum_of_more_contributors_than_the_policy_allows_is_malformed(contributors):
    with pytest.raises(Malformed, match="header"):
        OpenedSum.parse(OpenedSum(contributors, SUMS * 0).pack(POLICY), POLICY, 5)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_arbitrary_bytes_are_no_opened_sum(data):
    honest = OpenedSum(10, SUMS).pack(POLICY)
    for candidate in (data, honest[:16] + data, data + honest[len(data) :]):
        if candidate == honest:
            continue
        try:
            opened = OpenedSum.parse(candidate, POLICY, 5)
        except Malformed:
            continue
        assert opened.pack(POLICY) == candidate  # another opened sum, read exactly as it stands


def test_mean_is_fedavg_of_what_agents_quantised():
    mean = mean_update(OpenedSum(2, np.array([127, -127, 60])), POLICY, 1500)
    step = 0.1 / 127
    assert mean.dtype == np.float32
    assert np.allclose(mean, np.array([127, -127, 60]) * step * 1000 / 1500, rtol=1e-6)


@pytest.mark.parametrize("total_weight", [0, 1, 2001])
def test_total_weight_that_contributors_cannot_have_is_refused(total_weight):
    with pytest.raises(Refused, match="overweight"):
        mean_update(OpenedSum(2, SUMS * 0), POLICY, total_weight)


def test_candidate_is_the_base_plus_the_mean_and_byte_identical_for_everybody():
    rng = np.random.default_rng(3)
    base = {"b": rng.standard_normal(2).astype(np.float32), "w": rng.standard_normal((1, 3)).astype(np.float32)}
    opened = OpenedSum(10, SUMS)
    candidate = candidate_model(tensors.to_bytes(base), opened.pack(POLICY), POLICY, 7_000)
    expected = apply_update(tensors.flatten(base), mean_update(opened, POLICY, 7_000))
    assert np.array_equal(tensors.flatten(tensors.from_bytes(candidate)), expected)
    assert candidate == candidate_model(tensors.to_bytes(base), opened.pack(POLICY), POLICY, 7_000)


def test_update_of_another_length_is_not_applied():
    with pytest.raises(ValueError, match="differ"):
        apply_update(np.zeros(3, np.float32), np.zeros(1, np.float32))
