"""Accounts on a chain that is not ours: whoever sends transactions must hold what their gas costs.

The allowances are what a fleet was seen to use (in brackets), with room for a quarter more in every transaction's
limit and for states that cost more. Agents send nothing, so they need nothing. Where gas is free, nobody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gemel.adapters.evm_node import EvmNode
from gemel.adapters.evm_transactions import Sender
from gemel.errors import ConfigError
from gemel.ports import Role
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Count

FOUNDING_GAS = 27_000_000  # the operator: eleven contracts, roles, an election, a task [20,300,000]
REGISTRATION_GAS = 400_000  # the operator, for each party [130,000] and its machine [60,000]
STAKING_GAS = 450_000  # each validator, once [296,000]
ROUND_GAS = {  # each party of a role, in one round; a coordinator hands in what validators sign
    Role.COORDINATOR: 2_300_000,  # [five validators, four devices: 1,640,000]
    Role.CUSTODIAN: 100_000,  # [60,000]
    Role.VALIDATOR: 450_000,  # [none, unless the coordinator leaves something out: 200,000]
    Role.LISTENER: 300_000,  # [38,000; rollback 70,000; each root of a log 103,000]
}
TRANSFER_GAS = 21_000
WEI = 10**18


async def fund(
    rpc_url: str, chain_id: int, gas: Mapping[str, tuple[Address, Count]], funder: Identity | None
) -> None:
    """See that every account can pay for so much gas: name → address and gas. Those that can are left alone.

    Others are sent what they lack by `funder`. Raises ConfigError with every account that cannot pay and the amount,
    where there is no funder or it cannot pay for all; ChainUnavailable.
    """
    async with EvmNode(rpc_url) as node:
        await node.require_chain(chain_id)
        price = 2 * (await node.head()).base_fee_wei + await node.priority_fee()  # as Sender offers
        lacking: dict[Address, int] = {}
        lines = []
        for name, (address, units) in gas.items():
            lacks = units * price - await node.balance(address)
            if lacks > 0:
                lacking[address] = lacks
                lines.append(f"{name} {address} lacks {lacks / WEI:.6f}")
        if not lacking:
            return
        said = "; ".join(lines)
        if funder is None:
            raise ConfigError(
                rpc_url, "funds", f"accounts that can pay for gas, or a funder (in the chain's coin): {said}"
            )
        costs = sum(lacking.values()) + len(lacking) * TRANSFER_GAS * 5 // 4 * price
        holds = await node.balance(funder.address)
        if holds < costs:
            needs = f"{funder.address} holds {holds / WEI:.6f} and needs {costs / WEI:.6f}"
            raise ConfigError(rpc_url, "funder", f"an account that can pay; {needs} (in the chain's coin): {said}")
        sender = Sender(node, funder, chain_id)
        await asyncio.gather(*(sender.send("fund", to, b"", value_wei=lacks) for to, lacks in lacking.items()))
