"""Put the two contracts on a chain: once for each fleet."""

from __future__ import annotations

import msgspec

from gemel.adapters.contract_abi import DEVICE_REGISTRY, ROUND_REGISTRY, load
from gemel.adapters.evm_node import EvmNode
from gemel.adapters.evm_transactions import Sender
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Count


class Deployed(msgspec.Struct, frozen=True):
    """Where the contracts are, and the block from which on their events count."""

    device_registry: Address
    round_registry: Address
    block: Count


async def deploy(rpc_url: str, operator: Identity, chain_id: int) -> Deployed:
    """Create both contracts with `operator` as their administrator, who pays.

    Raises ConfigError for a node on another chain, ChainReverted, ChainUnavailable.
    """
    async with EvmNode(rpc_url) as node:
        await node.require_chain(chain_id)
        sender = Sender(node, operator, chain_id)
        devices = await sender.send("deploy", None, load(DEVICE_REGISTRY).deployment(operator.address))
        assert devices.created is not None  # the receipt of a creation that succeeded names the contract
        rounds = await sender.send("deploy", None, load(ROUND_REGISTRY).deployment(devices.created))
        assert rounds.created is not None
    return Deployed(devices.created, rounds.created, devices.block)
