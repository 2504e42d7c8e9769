"""Bodies: what is written is read, and what does not fit its form to the letter is malformed."""

from __future__ import annotations

import pickle
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import Malformed
from gemel.wire import messages
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import WHOLE, Body, Commitment, Deployment, Fetch, Policy, decode, encode
from tests.support.plans import POLICY, policy_of

BODIES = sorted(
    (
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Body) and kind is not Body
    ),
    key=lambda kind: kind.__name__,
)


def example(kind: type) -> object:
    """A smallest value of a message's type, from its own annotations."""
    info = msgspec.inspect.type_info(kind)
    return _value(info)


def _value(info: msgspec.inspect.Type) -> object:
    match info:
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            value: object = cls(**{field.name: _value(field.type) for field in fields})
        case msgspec.inspect.VarTupleType(item_type=item):
            value = (_value(item),)
        case msgspec.inspect.DictType(key_type=key, value_type=held):
            value = {_value(key): _value(held)}
        case msgspec.inspect.TupleType(item_types=items):
            value = tuple(map(_value, items))
        case msgspec.inspect.UnionType(types=types):
            value = _value(next(t for t in types if not isinstance(t, msgspec.inspect.NoneType)))
        case _:
            value = _scalar(info)
    return value


def _scalar(info: msgspec.inspect.Type) -> object:
    match info:
        case msgspec.inspect.StrType(pattern=pattern):
            lengths = (1, 42, 44, 64, 130)  # free text, address, commitment of a vote, digest or key, signature
            texts = ["0x".ljust(n, "a") if n == 42 else "a" * n for n in lengths]
            return next(text for text in texts if pattern is None or re.search(pattern, text))
        case msgspec.inspect.IntType(ge=least, gt=beyond):
            return beyond + 1 if beyond is not None else least or 0
        case msgspec.inspect.FloatType():
            return 0.5
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.LiteralType(values=values):
            return values[0]
    raise AssertionError(f"no example for {info}")


@pytest.mark.parametrize("kind", BODIES)
def test_body_is_read_as_it_was_written_and_written_alike(kind: type[Body]) -> None:
    body = example(kind)
    data = encode(body)
    assert decode(kind, data) == body
    assert encode(decode(kind, data)) == data


@pytest.mark.parametrize("kind", BODIES)
def test_body_with_a_field_too_much_is_malformed(kind: type[Body]) -> None:
    data = msgspec.json.decode(encode(example(kind))) | {"extra": 1}
    with pytest.raises(Malformed, match="extra"):
        decode(kind, msgspec.json.encode(data))


@pytest.mark.parametrize("kind", BODIES)
def test_body_with_a_field_of_another_type_is_malformed(kind: type[Body]) -> None:
    fields = msgspec.json.decode(encode(example(kind)))
    for name in fields:
        with pytest.raises(Malformed, match=rf"malformed {kind.__name__}: .*\$\.{name}"):
            decode(kind, msgspec.json.encode(fields | {name: {"not": "this"}}))


@given(st.sampled_from(BODIES), st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_malformed(kind: type[Body], data: bytes) -> None:
    try:
        body = decode(kind, data)
    except Malformed:
        return
    assert isinstance(body, kind)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(BODIES), st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_arbitrary_json_is_read_or_malformed(kind: type[Body], data: dict[str, object]) -> None:
    try:
        body = decode(kind, msgspec.json.encode(data))
    except Malformed:
        return
    assert isinstance(body, kind)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a":' * 100_000, b'"\xff"', b'{"model":"\xff"}', b"\xff\xfe", b"NaN", b"1e999"],
)
def test_deep_or_broken_json_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(Fetch, data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "ab" * 31),
        ("model", "AB" * 32),
        ("model", "0x" + "ab" * 31),
        ("model", "ab" * 32 + "\n"),
        ("model", " " + "ab" * 32),
        ("accuracy", 1_000_001),
        ("accuracy", -1),
        ("accuracy", 0.5),
        ("accuracy", True),
        ("deployment", 0),
        ("deployment", 2**53 + 1),
        ("deployment", "3"),
    ],
)
def test_value_outside_its_range_or_form_is_malformed(field: str, value: object) -> None:
    fields = msgspec.json.decode(encode(example(Deployment)))  # type: ignore[arg-type]  # a Deployment
    with pytest.raises(Malformed, match=rf"\$\.{field}"):
        decode(Deployment, msgspec.json.encode(fields | {field: value}))


@pytest.mark.parametrize("clip", ["NaN", "Infinity", "-1", "0", "1e7", "1e999"])
def test_policy_with_a_clip_that_is_no_positive_number_is_malformed(clip: str) -> None:
    data = encode(example(Policy)).replace(b'"clip":0.5', f'"clip":{clip}'.encode())  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        decode(Policy, data)


def test_policy_digest_is_that_of_its_canonical_form_and_of_every_field() -> None:
    policy = example(Policy)
    assert isinstance(policy, Policy)
    assert decode(Policy, encode(policy)).digest == policy.digest
    assert msgspec.structs.replace(policy, max_frame_bytes=999).digest != policy.digest
    sealing = msgspec.structs.replace(policy.sealing, bits=8)
    assert msgspec.structs.replace(policy, sealing=sealing).digest != policy.digest


@pytest.mark.parametrize(
    ("owners", "exception"),
    [(2, ""), (2, " \n"), (3, "the operator, for a trial"), (1, "the operator, for a trial"), (0, "")],
)
def test_fewer_than_three_owners_need_an_exception_that_says_who_allowed_it(owners: int, exception: str) -> None:
    fields = msgspec.json.decode(encode(POLICY)) | {"minimum_owners": owners, "two_owners_exception": exception}
    with pytest.raises(Malformed, match="minimum_owners"):
        decode(Policy, msgspec.json.encode(fields))


def test_one_time_keys_know_no_exception_for_two_owners() -> None:
    sealing = replace(POLICY.sealing, scheme="one-time-keys")
    with pytest.raises(ValueError, match="not under one-time-keys"):
        Policy(sealing, POLICY.training, minimum_owners=2, max_frame_bytes=1, two_owners_exception="me")


def test_exception_for_two_owners_is_part_of_the_digest_and_says_what_it_gives_up() -> None:
    allowed = "operator of works, until the third plant joins"
    policy = replace(POLICY, minimum_owners=2, two_owners_exception=allowed)
    assert decode(Policy, encode(policy)) == policy
    assert replace(policy, two_owners_exception="somebody else").digest != policy.digest
    assert policy.exception.startswith("EXCEPTION: sums of two owners")
    assert allowed in policy.exception
    assert POLICY.exception == ""


def test_digest_of_a_policy_is_the_same_in_a_worker_process() -> None:
    explicit = decode(Policy, encode(POLICY).replace(b'"scheme"', b'"max_share":1000000,"scheme"'))
    for policy in (POLICY, explicit, policy_of(levels=4, max_share=WHOLE // 2)):
        there = pickle.loads(pickle.dumps(policy))
        assert there == policy
        assert there.digest == policy.digest


def test_weights_that_a_policy_does_not_use_leave_its_digest_as_it_was() -> None:
    """A fleet that was founded before there were levels goes on under the policy that stands on its chain."""
    digest = "40cf172fedac79fcf363369f332ae32b8f41fc734088221ad9b1c722bc17415b"
    assert POLICY.digest == policy_of(levels=1, max_share=WHOLE, trust={}).digest == digest
    one, other = "0x" + "aa" * 20, "0x" + "bb" * 20
    changed = (policy_of(levels=2), policy_of(max_share=500_000), policy_of(trust={one: 1, other: 2}))
    assert len({policy.digest for policy in (*changed, POLICY)}) == 4
    assert policy_of(trust={other: 2, one: 1}).digest == changed[2].digest


@given(
    st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
)
def test_commitment_is_read_as_it_was_packed(header: bytes, digest: bytes, length: int) -> None:
    commitment = Commitment(header, Transfer(digest.hex(), length))
    assert Commitment.parse(commitment.pack()) == commitment


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_commitment_of_another_length_is_malformed(body: bytes) -> None:
    if len(body) != Commitment.SIZE:
        with pytest.raises(Malformed):
            Commitment.parse(body)
