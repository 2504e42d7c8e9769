"""Maintenance on any EVM chain: `gemel.ports.upkeep.Upkeep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemel.adapters.contract_abi import ASSET_REGISTRY, MAINTENANCE, decode_event
from gemel.adapters.contract_calls import ContractCalls
from gemel.errors import ChainUnavailable
from gemel.ports import OpenedOrder, OrderRecord, Sent
from gemel.wire.messages import HealthAlert
from gemel.wire.types import Address, Digest, Signature
from gemel.wire.upkeep import OrderState, Step, alert_id, asset_id

_RANGE = 500  # blocks in one eth_getLogs


class EvmUpkeep:
    """Over an open connection."""

    def __init__(self, calls: ContractCalls) -> None:
        self._calls = calls

    async def open_order(self, alert: HealthAlert, agent: Address) -> Sent:
        """See `Upkeep`."""
        occurrence = (asset_id(alert.site, alert.asset), alert_id(alert.alert))
        return await self._send("open", *occurrence, alert.time_s, alert.report, agent, alert.signature)

    async def acknowledge(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """See `Upkeep`."""
        return await self._send("acknowledge", order, _fields(step), signature)

    async def complete(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """See `Upkeep`."""
        return await self._send("complete", order, _fields(step), signature)

    async def verify(self, order: Digest, step: Step, signature: Signature) -> Sent:
        """See `Upkeep`."""
        return await self._send("verify", order, _fields(step), signature)

    async def order(self, order: Digest) -> OrderRecord:
        """See `Upkeep`."""
        found = await self._calls.call(MAINTENANCE, "order", order)
        state = OrderState(found["state"])
        names = ("opened", "acknowledged", "done", "verified")[: int(state)]
        steps = {name: _step(found[name]) for name in names}
        return OrderRecord(state, found["asset"], found["alert"], **steps)

    async def orders(self) -> Sequence[OpenedOrder]:
        """See `Upkeep`. Reads all events of the two contracts."""
        place, node = self._calls.place, self._calls.node
        contracts = {place.contracts[name]: name for name in (ASSET_REGISTRY, MAINTENANCE)}
        head = await node.head()
        names: dict[Digest, tuple[str, str]] = {}
        orders: list[OpenedOrder] = []
        for first in range(place.first_block, head.number + 1, _RANGE):
            for log in await node.logs(tuple(contracts), first, min(first + _RANGE - 1, head.number)):
                match decode_event(contracts[log.address], log.topics, log.data):
                    case "AssetAssigned", values:
                        names[str(values["asset"])] = (str(values["site"]), str(values["name"]))
                    case "OrderOpened", values:
                        asset = str(values["asset"])
                        if asset not in names:
                            raise ChainUnavailable(f"the node at {node.rpc_url} keeps events of assets back")
                        orders.append(OpenedOrder(str(values["id"]), *names[asset]))
        return orders

    async def owner_of(self, asset: Digest) -> Address:
        """See `Upkeep`."""
        owner: Address = await self._calls.call(ASSET_REGISTRY, "ownerOf", asset)
        return owner

    async def _send(self, function: str, *arguments: object) -> Sent:
        return await self._calls.send(MAINTENANCE, function, *arguments)


def _fields(step: Step) -> tuple[Address, int, Digest]:
    return step.by, step.time_s, step.report


def _step(found: dict[str, Any]) -> Step:
    return Step(found["by"], found["time"], found["report"])
