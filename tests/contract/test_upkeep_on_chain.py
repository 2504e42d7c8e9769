"""The Upkeep port on both nodes: orders from a signed alert to verified work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from itertools import count

import pytest
import pytest_asyncio

from gemel.adapters.contract_abi import ASSET_REGISTRY, MAINTENANCE
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.errors import ChainReverted
from gemel.ports import OpenedOrder, Role
from gemel.wire.identity import Identity
from gemel.wire.messages import HealthAlert
from gemel.wire.types import NO_ADDRESS, NO_DIGEST, Digest, sha256
from gemel.wire.upkeep import OrderState, Step, alert_id, asset_id, order_of, sign_alert, sign_step
from tests.support.chains import FUNDED, OPERATOR, STRANGER, Fleet, open_fleet, running_chain
from tests.support.parties import AGENTS, identity

# One node and one deployment for the whole module, an alert of its own for every test.
pytestmark = pytest.mark.asyncio(loop_scope="module")
AGENT, FOREIGN_AGENT = AGENTS
TECHNICIAN, INSPECTOR, BOTH = identity(41), identity(42), identity(43)
OWNER, OTHER_OWNER = identity(51).address, identity(52).address
SITE, ASSET = "bonn", "rig-1"
ALERTED_S = 1_700_000_000
REPORT = sha256(b"what he wrote")
_numbers = count()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with (
        running_chain(tmp_path_factory.mktemp("chain"), FUNDED, request.param) as chain,
        open_fleet(chain) as opened,
    ):
        await opened.register(AGENT, Role.AGENT, owner=OWNER)
        await opened.register(FOREIGN_AGENT, Role.AGENT, owner=OTHER_OWNER)
        operator = opened.operator.calls
        await operator.send(ASSET_REGISTRY, "assign", SITE, ASSET, OWNER)
        for role, members in (("TECHNICIAN_ROLE", (TECHNICIAN, BOTH)), ("INSPECTOR_ROLE", (INSPECTOR, BOTH))):
            for member in members:
                role_id = await operator.call(MAINTENANCE, role)
                await operator.send(MAINTENANCE, "grantRole", role_id, member.address)
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def upkeep(fleet: Fleet) -> AsyncIterator[EvmUpkeep]:
    """As a stranger without any role: whoever hands in needs none."""
    async with fleet.client(STRANGER) as client:
        yield EvmUpkeep(client.calls)


def alerted(fleet: Fleet, agent: Identity = AGENT, **changed: object) -> HealthAlert:
    said = {"site": SITE, "asset": ASSET, "alert": f"hot-{next(_numbers)}@5", "time_s": ALERTED_S, "report": REPORT}
    return sign_alert(agent, fleet.place.domain(MAINTENANCE), **(said | changed))


def signed(
    fleet: Fleet, who: Identity, order: Digest, state: OrderState, time_s: int = ALERTED_S
) -> tuple[Digest, Step, str]:
    step = Step(who.address, time_s, REPORT)
    return order, step, sign_step(who, fleet.place.domain(MAINTENANCE), order, state, step)


async def refused(call: Awaitable[object], error: str) -> None:
    with pytest.raises(ChainReverted) as caught:
        await call
    assert caught.value.error == error


async def test_order_goes_from_alert_to_verified_by_signatures_alone(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet)
    order = order_of(alert)
    assert (await upkeep.order(order)).state is OrderState.NONE
    assert (await upkeep.open_order(alert, AGENT.address)).gas > 21_000
    await upkeep.acknowledge(*signed(fleet, TECHNICIAN, order, OrderState.ACKNOWLEDGED, ALERTED_S + 10))
    await upkeep.complete(*signed(fleet, TECHNICIAN, order, OrderState.DONE, ALERTED_S + 20))
    await upkeep.verify(*signed(fleet, INSPECTOR, order, OrderState.VERIFIED, ALERTED_S + 30))
    found = await upkeep.order(order)
    assert found.state is OrderState.VERIFIED
    assert (found.asset, found.alert) == (asset_id(SITE, ASSET), alert_id(alert.alert))
    assert [step.by for step in found.steps] == [each.address for each in (AGENT, TECHNICIAN, TECHNICIAN, INSPECTOR)]
    assert [step.time_s - ALERTED_S for step in found.steps] == [0, 10, 20, 30]
    assert OpenedOrder(order, SITE, ASSET) in await upkeep.orders()


async def test_steps_that_are_to_come_are_none(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet)
    await upkeep.open_order(alert, AGENT.address)
    found = await upkeep.order(order_of(alert))
    assert found.opened == Step(AGENT.address, ALERTED_S, REPORT)
    assert (found.state, found.acknowledged, found.done, found.verified) == (OrderState.OPEN, None, None, None)


async def test_occurrence_opens_one_order(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet)
    await upkeep.open_order(alert, AGENT.address)
    await refused(upkeep.open_order(alert, AGENT.address), "OrderExists")


async def test_alert_of_anothers_agent_is_refused(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet, FOREIGN_AGENT)
    await refused(upkeep.open_order(alert, FOREIGN_AGENT.address), "NotAgentOfOwner")
    await refused(upkeep.open_order(alert, AGENT.address), "BadSignature")


async def test_alert_of_an_asset_that_is_nobodys_is_refused(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    assert await upkeep.owner_of(asset_id(SITE, ASSET)) == OWNER
    assert await upkeep.owner_of(asset_id(SITE, "rig-2")) == NO_ADDRESS
    await refused(upkeep.open_order(alerted(fleet, asset="rig-2"), AGENT.address), "NotAgentOfOwner")


@pytest.mark.parametrize("field", ["site", "asset", "alert", "time_s", "report"])
async def test_alert_counts_as_it_was_signed_or_not_at_all(fleet: Fleet, upkeep: EvmUpkeep, field: str) -> None:
    other = {"site": SITE, "asset": ASSET, "alert": "hot-0@6", "time_s": ALERTED_S + 1, "report": NO_DIGEST}[field]
    alert = alerted(fleet, **({field: "rig-9"} if field in ("site", "asset") else {}))
    changed = HealthAlert(**{**{f: getattr(alert, f) for f in alert.__struct_fields__}, field: other})
    await refused(upkeep.open_order(changed, AGENT.address), "BadSignature")


async def test_alert_from_the_future_is_refused_with_the_time_that_the_chain_has(
    fleet: Fleet, upkeep: EvmUpkeep
) -> None:
    with pytest.raises(ChainReverted) as caught:
        await upkeep.open_order(alerted(fleet, time_s=2**40), AGENT.address)
    assert caught.value.error == "TimeOutOfOrder"
    assert int(str(caught.value.values["latest"])) > ALERTED_S


async def test_steps_are_taken_in_their_order_only(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet)
    order = order_of(alert)
    await refused(upkeep.acknowledge(*signed(fleet, TECHNICIAN, order, OrderState.ACKNOWLEDGED)), "WrongState")
    await upkeep.open_order(alert, AGENT.address)
    await refused(upkeep.complete(*signed(fleet, TECHNICIAN, order, OrderState.DONE)), "WrongState")
    await upkeep.acknowledge(*signed(fleet, TECHNICIAN, order, OrderState.ACKNOWLEDGED, ALERTED_S + 9))
    await refused(upkeep.acknowledge(*signed(fleet, TECHNICIAN, order, OrderState.ACKNOWLEDGED)), "WrongState")
    earlier = signed(fleet, TECHNICIAN, order, OrderState.DONE, ALERTED_S + 8)
    await refused(upkeep.complete(*earlier), "TimeOutOfOrder")


async def test_own_work_is_not_verified_and_roles_are_kept(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    alert = alerted(fleet)
    order = order_of(alert)
    await upkeep.open_order(alert, AGENT.address)
    by_inspector = signed(fleet, INSPECTOR, order, OrderState.ACKNOWLEDGED)
    await refused(upkeep.acknowledge(*by_inspector), "AccessControlUnauthorizedAccount")
    await upkeep.acknowledge(*signed(fleet, TECHNICIAN, order, OrderState.ACKNOWLEDGED))
    await upkeep.complete(*signed(fleet, BOTH, order, OrderState.DONE))
    await refused(upkeep.verify(*signed(fleet, BOTH, order, OrderState.VERIFIED)), "OwnWorkVerified")
    by_technician = signed(fleet, TECHNICIAN, order, OrderState.VERIFIED)
    await refused(upkeep.verify(*by_technician), "AccessControlUnauthorizedAccount")
    in_anothers_name = signed(fleet, OPERATOR, order, OrderState.VERIFIED)
    step = Step(INSPECTOR.address, ALERTED_S, REPORT)
    await refused(upkeep.verify(order, step, in_anothers_name[2]), "BadSignature")
    await upkeep.verify(*signed(fleet, INSPECTOR, order, OrderState.VERIFIED))


async def test_signature_for_one_step_or_order_serves_no_other(fleet: Fleet, upkeep: EvmUpkeep) -> None:
    first, second = alerted(fleet), alerted(fleet)
    for alert in (first, second):
        await upkeep.open_order(alert, AGENT.address)
    _, step, signature = signed(fleet, TECHNICIAN, order_of(first), OrderState.ACKNOWLEDGED)
    await refused(upkeep.acknowledge(order_of(second), step, signature), "BadSignature")
    await upkeep.acknowledge(order_of(first), step, signature)
    await refused(upkeep.complete(order_of(first), step, signature), "BadSignature")
