"""The TrustScores port on both nodes: what validators report of devices, and what the next round sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from gemel.adapters.evm_deploy import TOKEN
from gemel.adapters.evm_trust import EvmTrust
from gemel.errors import ChainReverted
from gemel.ports import Role
from gemel.ports.trust_scores import TrustScores
from gemel.wire.attestations import Confirmation
from gemel.wire.identity import Identity
from gemel.wire.messages import DeviceResult
from gemel.wire.trust_report import sign_report
from tests.support.chains import FUNDED, Fleet, open_fleet, running_chain
from tests.support.parties import VALIDATORS, identity

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASK = "condition"
GOOD, BAD, WHOLE = 1_000_000, 0, 1_000_000
_numbers, _keys = count(1), count(500)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with (
        running_chain(tmp_path_factory.mktemp("chain"), FUNDED, request.param) as chain,
        open_fleet(chain) as opened,
    ):
        yield opened


@pytest.fixture
def scores(fleet: Fleet) -> TrustScores:
    return EvmTrust(fleet.operator.calls)


async def agent(fleet: Fleet) -> Identity:
    who = identity(next(_keys))
    await fleet.register(who, Role.AGENT)
    return who


def signed(fleet: Fleet, results: tuple[DeviceResult, ...], round_: int, *validators: Identity) -> list[Confirmation]:
    domain = fleet.place.domain("Trust")
    return [sign_report(results, TASK, round_, domain, each) for each in validators]


async def reported(fleet: Fleet, *results: DeviceResult) -> int:
    """The block in which a quorum's report went in."""
    round_ = next(_numbers)
    signatures = signed(fleet, results, round_, *reversed(VALIDATORS))  # in whatever order they came
    return (await EvmTrust(fleet.operator.calls).report(TASK, round_, results, signatures)).block


async def test_score_moves_with_each_result_and_is_known_as_of_every_block(fleet: Fleet, scores: TrustScores) -> None:
    praised, blamed, unheard = [(await agent(fleet)).address for _ in range(3)]
    everybody = [praised, blamed, unheard]
    before = (await fleet.operator.head()).block
    assert await scores.scores(everybody) == dict.fromkeys(everybody, WHOLE)
    first = await reported(fleet, DeviceResult(praised, GOOD, 0), DeviceResult(blamed, BAD, 0))
    second = await reported(fleet, DeviceResult(blamed, BAD, 0))
    now = await scores.scores(everybody)
    assert (now[praised], now[unheard]) == (WHOLE, WHOLE)
    assert 640_000 <= now[blamed] < 641_000  # 0.8 · 0.8, and a little back since
    assert await scores.scores(everybody, before) == dict.fromkeys(everybody, WHOLE)
    assert (await scores.scores(everybody, first))[blamed] == 800_000
    assert 640_000 <= (await scores.scores(everybody, second))[blamed] < 641_000


async def test_device_below_the_floor_is_suspended_and_others_are_not(fleet: Fleet, scores: TrustScores) -> None:
    good, bad = [(await agent(fleet)).address for _ in range(2)]
    for _ in range(8):  # 0.8 to the eighth is below a fifth
        assert await scores.below_floor([good, bad]) == frozenset()
        await reported(fleet, DeviceResult(bad, BAD, 0))
    assert await scores.below_floor([good, bad]) == {bad}


async def test_report_counts_once_and_says_so(fleet: Fleet, scores: TrustScores) -> None:
    device, round_ = (await agent(fleet)).address, next(_numbers)
    results = (DeviceResult(device, GOOD, 0),)
    signatures = signed(fleet, results, round_, *VALIDATORS)
    assert not await scores.is_reported(TASK, round_, device)
    await scores.report(TASK, round_, results, signatures)
    assert await scores.is_reported(TASK, round_, device)
    with pytest.raises(ChainReverted, match="AlreadyReported"):
        await scores.report(TASK, round_, results, signatures)


async def test_report_without_a_quorum_or_of_other_results_is_refused(fleet: Fleet, scores: TrustScores) -> None:
    device, round_ = (await agent(fleet)).address, next(_numbers)
    results = (DeviceResult(device, GOOD, 0),)
    minority = signed(fleet, results, round_, *VALIDATORS[1:])  # 500 of 1,000
    with pytest.raises(ChainReverted, match="QuorumMissing"):
        await scores.report(TASK, round_, results, minority)
    everybody = signed(fleet, results, round_, *VALIDATORS)
    with pytest.raises(ChainReverted, match=r"Unordered|QuorumMissing"):  # whoever signed that is somebody else
        await scores.report(TASK, round_, (DeviceResult(device, BAD, 0),), everybody)
    with pytest.raises(ChainReverted, match=r"QuorumMissing|Unordered"):
        await scores.report(TASK, round_ + 1000, results, everybody)


async def test_owner_earns_its_devices_share_and_is_paid_once(fleet: Fleet, scores: TrustScores) -> None:
    device = await agent(fleet)  # owns itself
    await scores.fund(10 * TOKEN)
    await reported(fleet, DeviceResult(device.address, GOOD, WHOLE // 4))
    assert await scores.earned(device.address) == TOKEN // 4
    await scores.claim(device.address)
    assert await scores.earned(device.address) == 0
    with pytest.raises(ChainReverted, match="NothingToClaim"):
        await scores.claim(device.address)
