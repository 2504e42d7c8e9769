"""Maintenance orders as the chain has them: every step, who signed it, and who brought it there."""

from __future__ import annotations

from typing import Any

import msgspec

from gemel.console.auditor.ledger import Ledger, Mark
from gemel.wire.types import Address, Count, Digest
from gemel.wire.upkeep import OrderState


class OrderStep(msgspec.Struct, frozen=True):
    """A signed step; `time_s` is what its signer said, the mark says when the chain learnt of it."""

    state: str
    by: Address
    time_s: Count
    report: Digest  # SHA-256 of what he wrote; zeros: nothing
    mark: Mark


class AuditedOrder(msgspec.Struct, frozen=True):
    """An order and how far it is."""

    order: Digest
    site: str
    asset: str
    alert: Digest  # keccak of the occurrence's id
    steps: tuple[OrderStep, ...]

    @property
    def state(self) -> str:
        """The last step's."""
        return self.steps[-1].state


def report_orders(ledger: Ledger) -> tuple[AuditedOrder, ...]:
    """All orders, oldest first."""
    names: dict[Digest, tuple[str, str]] = {}
    orders: dict[Digest, AuditedOrder] = {}
    for event in ledger.events:
        values: Any = event.values
        match event.name:
            case "AssetAssigned":
                names[values["asset"]] = (values["site"], values["name"])
            case "OrderOpened":
                step = _step(OrderState.OPEN, values, ledger.mark(event))
                orders[values["id"]] = AuditedOrder(values["id"], *names[values["asset"]], values["alert"], (step,))
            case "OrderAdvanced":
                before = orders[values["id"]]
                step = _step(OrderState(values["state"]), values, ledger.mark(event))
                orders[before.order] = msgspec.structs.replace(before, steps=(*before.steps, step))
    return tuple(orders.values())


def _step(state: OrderState, values: Any, mark: Mark) -> OrderStep:
    return OrderStep(state.name.lower(), values["by"], values["time"], values["report"], mark)
