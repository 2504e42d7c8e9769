"""The Anchors port on both nodes: roots go on without a gap, and entries prove themselves against them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from itertools import count

import pytest
import pytest_asyncio

from gemel.adapters.contract_abi import AUDIT_ANCHORS
from gemel.adapters.evm_anchors import EvmAnchors
from gemel.errors import ChainReverted
from gemel.wire.logs import leaf, log_id, prove, prove_root, root_of, root_of_roots, verify_entry, verify_range
from gemel.wire.types import NO_DIGEST, sha256
from tests.support.chains import FUNDED, Fleet, open_fleet, running_chain
from tests.support.parties import LISTENER

# One node and one deployment for the whole module, a log of its own for every test.
pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = sha256(b"a root")
_numbers = count()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with (
        running_chain(tmp_path_factory.mktemp("chain"), FUNDED, request.param) as chain,
        open_fleet(chain) as opened,
    ):
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def log(fleet: Fleet) -> str:
    """A log that the listener may write."""
    name = f"log-{next(_numbers)}"
    operator = fleet.operator.calls
    role = await operator.call(AUDIT_ANCHORS, "writerRole", log_id(name))
    await operator.send(AUDIT_ANCHORS, "grantRole", role, LISTENER.address)
    return name


@pytest.fixture
def anchors(fleet: Fleet) -> EvmAnchors:
    return EvmAnchors(fleet.listener.calls)


async def refused(call: Awaitable[object], error: str) -> dict[str, object]:
    with pytest.raises(ChainReverted) as caught:
        await call
    assert caught.value.error == error
    return caught.value.values


def entry(number: int) -> bytes:
    return b'{"reader":"wallboard","sequence":%d}' % number


async def test_roots_follow_each_other_and_are_found_by_place_and_by_entry(anchors: EvmAnchors, log: str) -> None:
    assert (await anchors.anchored_entries(log), await anchors.anchor_count(log)) == (0, 0)
    assert await anchors.anchor_of(log, 1) is None
    ranges = [(1, 1), (2, 10), (11, 11), (12, 100)]
    for first, last in ranges:
        await anchors.anchor(log, first=first, last=last, root=sha256(b"%d" % first))
    assert (await anchors.anchored_entries(log), await anchors.anchor_count(log)) == (100, 4)
    for index, (first, last) in enumerate(ranges):
        found = await anchors.anchor_at(log, index)
        assert (found.first, found.last, found.root, found.by) == (
            first,
            last,
            sha256(b"%d" % first),
            LISTENER.address,
        )
        assert await anchors.anchor_of(log, first) == await anchors.anchor_of(log, last) == found
    assert await anchors.anchor_of(log, 0) is None
    assert await anchors.anchor_of(log, 101) is None
    await refused(anchors.anchor_at(log, 4), "UnknownAnchor")


@pytest.mark.parametrize("first", [1, 3])
async def test_range_that_is_not_the_next_is_refused_with_the_one_that_is(
    anchors: EvmAnchors, log: str, first: int
) -> None:
    await anchors.anchor(log, first=1, last=1, root=ROOT)
    values = await refused(anchors.anchor(log, first=first, last=5, root=ROOT), "NotNext")
    assert values["expected"] == 2


async def test_only_its_writer_anchors_a_log_and_never_an_empty_root(
    fleet: Fleet, anchors: EvmAnchors, log: str
) -> None:
    of_another = EvmAnchors(fleet.coordinator.calls)
    await refused(of_another.anchor(log, first=1, last=1, root=ROOT), "AccessControlUnauthorizedAccount")
    await refused(anchors.anchor(f"not-{log}", first=1, last=1, root=ROOT), "AccessControlUnauthorizedAccount")
    await refused(anchors.anchor(log, first=1, last=1, root=NO_DIGEST), "RootMissing")
    await refused(anchors.anchor(log, first=1, last=0, root=ROOT), "RangeOutOfBounds")


async def test_entries_prove_themselves_to_us_and_to_the_contract(
    fleet: Fleet, anchors: EvmAnchors, log: str
) -> None:
    entries = [entry(number) for number in range(1, 8)]
    await anchors.anchor(log, first=1, last=7, root=root_of(entries))
    anchor = await anchors.anchor_of(log, 3)
    assert anchor is not None
    assert verify_range(entries, anchor)
    for number, each in enumerate(entries, 1):
        path = prove(entries, each)
        assert verify_entry(each, number, path, anchor)
        assert await fleet.operator.calls.call(
            AUDIT_ANCHORS, "verify", log_id(log), 0, leaf(each).hex(), [p.hex() for p in path]
        )


async def test_entry_proves_itself_through_the_root_of_its_part(fleet: Fleet, anchors: EvmAnchors, log: str) -> None:
    """As the registry's log of reads: many roots, one anchor."""
    parts = [[entry(1)], [entry(2), entry(3), entry(4)], [entry(5), entry(6)]]
    roots = [root_of(part) for part in parts]
    await anchors.anchor(log, first=1, last=6, root=root_of_roots(roots))
    anchor = await anchors.anchor_at(log, 0)
    for part, root in zip(parts, roots, strict=True):
        for each in part:
            path = prove(part, each) + prove_root(roots, root)
            assert await fleet.operator.calls.call(
                AUDIT_ANCHORS, "verify", log_id(log), 0, leaf(each).hex(), [p.hex() for p in path]
            )
    assert verify_entry(entry(4), 4, prove(parts[1], entry(4)) + prove_root(roots, roots[1]), anchor)
