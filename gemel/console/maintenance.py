"""Maintenance orders as a person sees and advances them. Who signs needs no account; who hands it in does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from gemel.adapters.contract_abi import MAINTENANCE
from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.console.fleet_files import read, read_place
from gemel.errors import ConfigError
from gemel.ports import OpenedOrder, OrderRecord, Sent
from gemel.wire.identity import Identity
from gemel.wire.types import NO_DIGEST, Address, Count, Digest, sha256
from gemel.wire.upkeep import OrderState, Step, sign_step


class StepLine(msgspec.Struct, frozen=True):
    """A step that was taken; the time is what its signer said."""

    state: str
    by: Address
    time: str  # ISO 8601, UTC
    report: Digest  # SHA-256 of what he wrote; zeros: nothing


class OrderLine(msgspec.Struct, frozen=True):
    """An order and how far it is."""

    order: Digest
    site: str
    asset: str
    alert: Digest  # keccak of the occurrence's id
    state: str
    steps: tuple[StepLine, ...]


async def list_orders(directory: Path, *, unfinished: bool = False) -> Sequence[OrderLine]:
    """All orders of a founded fleet, oldest first; `unfinished`: without those that are verified.

    Raises ConfigError (no such fleet, another chain), ChainUnavailable.
    """
    async with _opened(directory, None) as (_, upkeep):
        opened = await upkeep.orders()
        lines = [_line(each, await upkeep.order(each.order)) for each in opened]
    return [line for line in lines if not unfinished or line.state != _word(OrderState.VERIFIED)]


async def show_order(directory: Path, order: str) -> OrderLine:
    """One order; the first digits of its id are enough. Raises as `list_orders`; ConfigError for none or several."""
    async with _opened(directory, None) as (_, upkeep):
        found = _find(await upkeep.orders(), order)
        return _line(found, await upkeep.order(found.order))


async def advance(
    directory: Path, order: str, state: OrderState, signer: Identity, submitter: Identity, report: Path | None
) -> tuple[OrderLine, Sent]:
    """Sign the next step of an order and hand it in. Raises as `show_order`, and ChainReverted with why it is not."""
    async with _opened(directory, submitter) as (calls, upkeep):
        found = _find(await upkeep.orders(), order)
        record = await upkeep.order(found.order)
        digest = NO_DIGEST if report is None else sha256(await asyncio.to_thread(read, report))
        step = Step(signer.address, await _time_s(calls, record), digest)
        signature = sign_step(signer, calls.place.domain(MAINTENANCE), found.order, state, step)
        steps = {
            OrderState.ACKNOWLEDGED: upkeep.acknowledge,
            OrderState.DONE: upkeep.complete,
            OrderState.VERIFIED: upkeep.verify,
        }
        sent = await steps[state](found.order, step, signature)
        return _line(found, await upkeep.order(found.order)), sent


def print_orders(lines: Sequence[OrderLine], console: Console) -> None:
    """A line for each."""
    table = Table("order", "site", "asset", "state", "opened", "since", box=box.SIMPLE)
    for line in lines:
        table.add_row(line.order[:12], line.site, line.asset, line.state, line.steps[0].time, line.steps[-1].time)
    console.print(table)


def print_order(line: OrderLine, console: Console) -> None:
    """One order, step by step."""
    console.print(f"Order {line.order}\n{line.asset} at {line.site}, alert {line.alert}", soft_wrap=True)
    table = Table("state", "time (UTC)", "by", "report", box=box.SIMPLE)
    for step in line.steps:
        table.add_row(step.state, step.time, step.by, "-" if step.report == NO_DIGEST else step.report[:12])
    console.print(table)


@asynccontextmanager
async def _opened(directory: Path, identity: Identity | None) -> AsyncIterator[tuple[ContractCalls, EvmUpkeep]]:
    async with ContractCalls(read_place(directory), identity) as calls:
        yield calls, EvmUpkeep(calls)


async def _time_s(calls: ContractCalls, record: OrderRecord) -> Count:
    """When we sign: now, as far as the chain knows, whose last block is what a node compares with at first."""
    now_s = int(datetime.now(UTC).timestamp())
    head_s = (await calls.node.head()).timestamp_s
    return max(min(now_s, head_s), *(step.time_s for step in record.steps))


def _find(opened: Sequence[OpenedOrder], order: str) -> OpenedOrder:
    found = [each for each in opened if order and each.order.startswith(order.lower())]
    if len(found) != 1:
        what = "no order begins" if not found else f"{len(found)} orders begin"
        raise ConfigError("order", order, f"the first digits of one order's id; {what} so")
    return found[0]


def _line(opened: OpenedOrder, record: OrderRecord) -> OrderLine:
    steps = tuple(
        StepLine(_word(state), step.by, _iso(step.time_s), step.report)
        for state, step in zip(list(OrderState)[1:], record.steps, strict=False)
    )
    return OrderLine(opened.order, opened.site, opened.asset, record.alert, _word(record.state), steps)


def _word(state: OrderState) -> str:
    return state.name.lower()


def _iso(time_s: Count) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
