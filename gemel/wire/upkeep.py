"""Maintenance on the wire: what agents, technicians and inspectors sign, and how an order is told. Pure.

An order is opened by a twin's health alert, and goes on by signed steps (contracts/src/Maintenance.sol checks both).
Its id is keccak(asset ‖ alert), so an occurrence opens one order, however often it is told.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

import msgspec
from eth_hash.auto import keccak

from gemel.wire.eip712 import Domain, word
from gemel.wire.identity import Identity, recover
from gemel.wire.messages import Body, HealthAlert
from gemel.wire.topics import ROOT
from gemel.wire.types import Address, Count, Digest, Signature

_ALERT_TYPE = "HealthAlert(bytes32 asset,bytes32 alert,uint64 time,bytes32 report)"
_STEP_TYPE = "MaintenanceStep(bytes32 order,uint8 state,uint64 time,bytes32 report)"

SCHEMA: Final = "gemel.order/1"


class OrderState(IntEnum):
    """The contract's enum: an order only ever goes on to the next word."""

    NONE = 0
    OPEN = 1
    ACKNOWLEDGED = 2
    DONE = 3
    VERIFIED = 4


class Step(msgspec.Struct, frozen=True):
    """One step of an order: who signed it, when by his clock, and the SHA-256 of what he wrote (zeros: nothing)."""

    by: Address
    time_s: Count
    report: Digest


class ToldStep(msgspec.Struct, frozen=True):
    """A step as dashboards read it, with the transaction that it came to the chain in."""

    state: Literal["open", "acknowledged", "done", "verified"]
    by: Address
    time_s: Count  # as signed; the block says when the chain learnt of it
    report: Digest
    transaction: Digest
    block: Count


class ToldOrder(Body, frozen=True):
    """How far an order is: the retained message of topics.maintenance_order. Plain JSON, for everybody's tools.

    The chain is what counts: every step names the transaction that proves it.
    """

    schema: Literal["gemel.order/1"]
    site: str
    asset: str
    order: Digest
    alert: str  # the occurrence's id; its keccak where only the chain told us of it
    steps: tuple[ToldStep, ...]

    @property
    def state(self) -> OrderState:
        """The last step's."""
        return OrderState[self.steps[-1].state.upper()] if self.steps else OrderState.NONE


def asset_id(site: str, asset: str) -> Digest:
    """An asset on chain: keccak of its twin's topic without the leaf (contracts/src/TwinScope.sol)."""
    return bytes(keccak(f"{ROOT}/{site}/twin/{asset}".encode())).hex()


def occurrence(alert: str, raised_ms: int) -> str:
    """The id of one occurrence of an alert. With its time: an agent that lost its state counts from 1 again."""
    return f"{alert}@{raised_ms}"


def alert_id(of: str) -> Digest:
    """An occurrence on chain: keccak of its id."""
    return bytes(keccak(of.encode())).hex()


def order_id(asset: Digest, alert: Digest) -> Digest:
    """The id that the contract gives the order of an asset and an alert."""
    return bytes(keccak(word(asset) + word(alert))).hex()


def order_of(alert: HealthAlert) -> Digest:
    """The id of the order that an alert opens."""
    return order_id(asset_id(alert.site, alert.asset), alert_id(alert.alert))


def sign_alert(
    agent: Identity, maintenance: Domain, *, site: str, asset: str, alert: str, time_s: int, report: Digest
) -> HealthAlert:
    """The agent's word for the contract that `maintenance` is the domain of; `alert` is the occurrence's id."""
    signature = agent.sign(_alert_hash(maintenance, site, asset, alert, time_s, report)).hex()
    return HealthAlert(site, asset, alert, time_s, report, signature)


def alert_signer(alert: HealthAlert, maintenance: Domain) -> Address:
    """Who signed it. Raises Refused(bad_signature)."""
    signed = _alert_hash(maintenance, alert.site, alert.asset, alert.alert, alert.time_s, alert.report)
    return recover(signed, bytes.fromhex(alert.signature))


def sign_step(who: Identity, maintenance: Domain, order: Digest, state: OrderState, step: Step) -> Signature:
    """The word of whoever takes an order to `state`."""
    return who.sign(maintenance.hash(_STEP_TYPE, order, int(state), step.time_s, step.report)).hex()


def _alert_hash(maintenance: Domain, site: str, asset: str, alert: str, time_s: int, report: Digest) -> bytes:
    return maintenance.hash(_ALERT_TYPE, asset_id(site, asset), alert_id(alert), time_s, report)
