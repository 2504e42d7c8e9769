"""Entries of logs against their anchors: what was changed, left out, moved or made up does not prove itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.ports import Access
from gemel.wire.logs import (
    AnchorRecord,
    leaf,
    number_of,
    prove,
    prove_root,
    root_of,
    root_of_roots,
    verify_entry,
    verify_range,
)
from gemel.wire.messages import encode
from twin_registry import access_log

READERS = st.lists(st.text(max_size=20), min_size=1, max_size=30)


def entries_from(first: int, readers: list[str]) -> list[bytes]:
    return [encode(Access(number, 5, reader, "twins")) for number, reader in enumerate(readers, first)]


def anchor_over(entries: list[bytes], first: int) -> AnchorRecord:
    return AnchorRecord(root_of(entries), first, first + len(entries) - 1, 7, "0x" + "ab" * 20)


@given(READERS, st.integers(1, 2**40), st.data())
def test_entry_proves_itself_under_its_own_number_and_no_other(
    readers: list[str], first: int, data: st.DataObject
) -> None:
    entries = entries_from(first, readers)
    anchor = anchor_over(entries, first)
    index = data.draw(st.integers(0, len(entries) - 1))
    entry, number = entries[index], first + index
    path = prove(entries, entry)
    assert verify_entry(entry, number, path, anchor)
    other = data.draw(st.integers(first - 1, first + len(entries)).filter(lambda n: n != number))
    assert not verify_entry(entry, other, path, anchor)
    beside = replace(anchor, first=number + 1, last=number + 5)
    assert not verify_entry(entry, number, path, beside)
    forged = entry.replace(b'"time_ms":5', b'"time_ms":6')
    assert not verify_entry(forged, number, path, anchor)


@given(READERS, st.integers(1, 2**40), st.data())
def test_range_holds_whole_and_in_order_or_not_at_all(readers: list[str], first: int, data: st.DataObject) -> None:
    entries = entries_from(first, readers)
    anchor = anchor_over(entries, first)
    assert verify_range(entries, anchor)
    index = data.draw(st.integers(0, len(entries) - 1))
    assert not verify_range([*entries[:index], *entries[index + 1 :]], anchor)
    assert not verify_range([*entries, entries[index]], anchor)
    forged = [*entries]
    forged[index] = entries[index].replace(b'"time_ms":5', b'"time_ms":6')
    assert not verify_range(forged, anchor)
    assert not verify_range(entries, replace(anchor, last=anchor.last + 1))


@given(st.lists(READERS, min_size=1, max_size=6), st.data())
def test_path_through_the_root_of_a_part_leads_to_the_root_over_all_parts(
    parts: list[list[str]], data: st.DataObject
) -> None:
    entries: list[list[bytes]] = []
    for readers in parts:
        entries.append(entries_from(1 + sum(map(len, entries)), readers))
    roots = [root_of(part) for part in entries]
    anchor = AnchorRecord(root_of_roots(roots), 1, sum(map(len, entries)), 7, "0x" + "ab" * 20)
    part = data.draw(st.integers(0, len(entries) - 1))
    entry = data.draw(st.sampled_from(entries[part]))
    number = number_of(entry)
    assert number is not None
    path = prove(entries[part], entry) + prove_root(roots, roots[part])
    assert verify_entry(entry, number, path, anchor)
    if len(roots) > 1:
        assert not verify_entry(entry, number, prove(entries[part], entry), anchor)


@given(READERS)
def test_registrys_leaves_are_those_of_anchored_logs(readers: list[str]) -> None:
    access = Access(1, 5, readers[0], "twins")
    assert access_log.leaf(access) == leaf(encode(access))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_entry_have_no_number_and_prove_nothing(data: bytes) -> None:
    number = number_of(data)
    assert number is None or number >= 0
    anchor = AnchorRecord(leaf(data).hex(), 1, 2**50, 7, "0x" + "ab" * 20)
    assert verify_entry(data, 1, [], anchor) == (number == 1)


@pytest.mark.parametrize(
    "data", [b'{"sequence":-1}', b'{"sequence":"1"}', b'{"sequence":1.5}', b"[" * 10_000, b"\xff"]
)
def test_number_that_is_none_is_not_read(data: bytes) -> None:
    assert number_of(data) is None


def test_nothing_has_no_root() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        root_of([])
