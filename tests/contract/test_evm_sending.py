"""Sending on a chain that keeps transactions waiting, forgets them and replaces blocks: anvil, told to do so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gemel.adapters.contract_abi import load
from gemel.adapters.evm_node import EvmNode, ForeignChain, NodeRefused, Patience, Receipt
from gemel.adapters.evm_transactions import FeeAboveCeiling, GasAboveCeiling, Sender, SendingPolicy
from gemel.errors import ChainReverted, ChainUnavailable
from gemel.wire.types import Address
from tests.support.chains import CHAIN_ID, OPERATOR, STRANGER, RunningChain, running_chain
from tests.support.faulty_nodes import FaultyNode, answer, instead

pytestmark = pytest.mark.anvil
TOKEN = load("StakeToken")
GWEI = 10**9
QUICK = SendingPolicy(stuck_s=0.2, deadline_s=20)


class Account:
    """Stake that is sent about, through a faulty node that does no harm unless it is told to."""

    def __init__(self, chain: RunningChain, faulty: FaultyNode, node: EvmNode, token: Address) -> None:
        self.chain, self.faulty, self.node, self.token = chain, faulty, node, token

    def sender(self, policy: SendingPolicy = QUICK) -> Sender:
        return Sender(self.node, OPERATOR, CHAIN_ID, policy=policy)

    async def transfer(self, sender: Sender, amount: int = 1) -> Receipt:
        data = TOKEN.functions["transfer"].encode(STRANGER.address, amount)
        return await sender.send("transfer", self.token, data)

    async def arrived(self) -> int:
        data = TOKEN.functions["balanceOf"].encode(STRANGER.address)
        return int(TOKEN.functions["balanceOf"].decode_result(await self.node.call(self.token, data)))

    async def mined_by_hand(self) -> None:
        await self.chain.rpc("evm_setAutomine", False)

    async def waiting(self) -> dict[str, Any]:
        """The sender's transactions in no block, by nonce."""
        pool: Any = await self.chain.rpc("txpool_content")
        by_sender = {who.lower(): found for kind in ("pending", "queued") for who, found in pool[kind].items()}
        return by_sender.get(OPERATOR.address, {})

    async def mine(self) -> None:
        await self.chain.rpc("evm_mine")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await holds():  # noqa: ASYNC110  the node tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    async with (
        running_chain(tmp_path, [OPERATOR.address, STRANGER.address], "anvil") as chain,
        FaultyNode(chain.url).serving() as faulty,
        EvmNode(faulty.url, Patience(request_s=1, give_up_s=0.3, first_pause_s=0.01)) as node,
    ):
        deployment = TOKEN.deployment([OPERATOR.address], [1000])
        created = (await Sender(node, OPERATOR, CHAIN_ID).send("deploy", None, deployment)).created
        assert created is not None
        yield Account(chain, faulty, node, created)


async def _one_waits(account: Account) -> dict[str, Any]:
    async def holds() -> bool:
        return len(await account.waiting()) == 1

    await until(holds)
    (found,) = (await account.waiting()).values()
    return dict(found)


async def test_transaction_that_is_stuck_is_replaced_an_eighth_dearer_at_least(account: Account) -> None:
    await account.mined_by_hand()
    sending = asyncio.create_task(account.transfer(account.sender()))
    first = await _one_waits(account)

    async def replaced() -> bool:
        return (await _one_waits(account))["hash"] != first["hash"]

    await until(replaced)
    second = await _one_waits(account)
    await account.mine()
    receipt = await sending
    assert receipt.transaction != first["hash"][2:]
    assert second["nonce"] == first["nonce"]
    for field in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert int(second[field], 16) * 8 >= int(first[field], 16) * 9
    assert await account.arrived() == 1


async def test_older_of_two_that_share_a_nonce_is_recognised_when_it_is_the_one_in_a_block(account: Account) -> None:
    await account.mined_by_hand()
    sending = asyncio.create_task(account.transfer(account.sender()))
    first = await _one_waits(account)
    asked = len(account.faulty.asked)
    account.faulty.faults["eth_sendRawTransaction"] = instead(lambda: answer("0x" + "00" * 32))  # taken, and lost

    async def replaced() -> bool:
        return "eth_sendRawTransaction" in account.faulty.asked[asked:]

    await until(replaced)
    await account.mine()
    assert (await sending).transaction == first["hash"][2:]
    assert await account.arrived() == 1


async def test_what_nobody_waits_for_any_more_is_made_dearer_too_when_it_stands_in_the_way(account: Account) -> None:
    await account.mined_by_hand()
    sender = account.sender()
    given_up = asyncio.create_task(account.transfer(sender, 1))
    await _one_waits(account)
    given_up.cancel()
    sending = asyncio.create_task(account.transfer(sender, 2))

    async def both_wait() -> bool:
        return len(await account.waiting()) == 2

    await until(both_wait)
    await account.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))  # more than either pays
    await account.mine()
    assert await account.arrived() == 0

    async def both_in_a_block() -> bool:
        await account.mine()
        return await account.arrived() == 3

    await until(both_in_a_block)
    assert (await sending).succeeded


async def test_chain_that_asks_for_more_than_the_ceiling_is_told_before_anything_is_sent(account: Account) -> None:
    await account.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(600 * GWEI))
    await account.mine()
    with pytest.raises(FeeAboveCeiling, match=r"transfer: the chain asks \d+.* gwei a gas, max_fee_gwei allows 500"):
        await account.transfer(account.sender())
    assert await account.waiting() == {}
    assert (await account.transfer(account.sender(SendingPolicy(max_fee_gwei=5_000)))).succeeded


async def test_fee_never_rises_above_the_ceiling_however_long_it_is_stuck(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    await account.mined_by_hand()
    sending = asyncio.create_task(account.transfer(account.sender(SendingPolicy(max_fee_gwei=4, stuck_s=0.05))))

    async def said() -> bool:
        return any("in no block, and not replaced" in record.message for record in caplog.records)

    await until(said)
    assert int((await _one_waits(account))["maxFeePerGas"], 16) <= 4 * GWEI
    await account.mine()
    assert (await sending).succeeded


async def test_call_that_takes_more_gas_than_the_ceiling_is_not_sent(account: Account) -> None:
    with pytest.raises(GasAboveCeiling, match=r"transfer: \d+ gas, gas_ceiling allows 30000"):
        await account.transfer(account.sender(SendingPolicy(gas_ceiling=30_000)))
    assert await account.arrived() == 0


async def test_gas_is_the_estimate_and_its_margin_and_at_most_the_ceiling(account: Account) -> None:
    limits = []
    for policy in (SendingPolicy(gas_margin=0.5), SendingPolicy(gas_margin=5, gas_ceiling=80_000)):
        receipt = await account.transfer(account.sender(policy))
        sent = await account.node.transaction(receipt.transaction)
        assert sent is not None
        limits.append(sent["gas"])
    assert limits[0] > 50_000
    assert limits[1] == 80_000


async def test_transaction_that_the_node_has_forgotten_is_handed_in_again(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.evm_transactions.FORGOTTEN_S", 0.1)
    await account.mined_by_hand()
    sender = account.sender(SendingPolicy(stuck_s=60))
    sending = [asyncio.create_task(account.transfer(sender, amount)) for amount in (1, 2)]

    async def both_wait() -> bool:
        return len(await account.waiting()) == 2

    await until(both_wait)
    await account.chain.rpc("anvil_dropAllTransactions")  # the second alone could never get into a block
    assert await account.waiting() == {}
    await until(both_wait)
    await account.mine()
    assert {(await each).succeeded for each in sending} == {True}
    assert await account.arrived() == 3


async def test_receipt_is_handed_out_once_its_block_is_as_deep_as_asked(account: Account) -> None:
    sending = asyncio.create_task(account.transfer(account.sender(SendingPolicy(confirmations=2))))

    async def in_a_block() -> bool:
        return await account.arrived() == 1

    await until(in_a_block)
    await account.mine()
    asked = len(account.faulty.asked)

    async def looked_on() -> bool:
        return account.faulty.asked[asked:].count("eth_getTransactionReceipt") > 3

    await until(looked_on)
    assert not sending.done()
    await account.mine()
    receipt = await sending
    assert (await account.node.head()).number == receipt.block + 2


async def test_transaction_whose_block_was_replaced_is_sent_again_and_its_new_receipt_counts(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.evm_transactions.FORGOTTEN_S", 0.1)
    snapshot = await account.chain.rpc("evm_snapshot")
    sending = asyncio.create_task(account.transfer(account.sender(SendingPolicy(confirmations=2))))

    async def in_a_block() -> bool:
        return await account.arrived() == 1

    await until(in_a_block)
    lost = await account.node.head()
    await account.chain.rpc("evm_revert", snapshot)
    await account.mine()  # another block in its place
    await until(in_a_block)
    await account.mine()
    await account.mine()
    receipt = await sending
    assert receipt.block_hash != lost.hash
    kept = await account.node.header(receipt.block)
    assert kept is not None
    assert kept.hash == receipt.block_hash


async def test_node_that_goes_away_while_a_receipt_is_waited_for_costs_nothing(account: Account) -> None:
    account.faulty.faults["eth_getTransactionReceipt"] = instead(lambda: web.Response(status=503))
    sending = asyncio.create_task(account.transfer(account.sender()))

    async def asked_again() -> bool:
        return account.faulty.asked.count("eth_getTransactionReceipt") > 10  # longer than one request's patience

    await until(asked_again)
    account.faulty.faults.clear()
    assert (await sending).succeeded
    assert await account.arrived() == 1


async def test_node_that_is_away_when_it_is_sent_gets_it_once_it_is_back(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.evm_transactions.FORGOTTEN_S", 0.1)
    account.faulty.faults["eth_sendRawTransaction"] = instead(lambda: web.Response(status=503))
    sending = asyncio.create_task(account.transfer(account.sender()))

    async def looks_for_it() -> bool:
        return "eth_getTransactionReceipt" in account.faulty.asked[-3:]

    await until(looks_for_it)
    account.faulty.faults.clear()
    assert (await sending).succeeded
    assert await account.arrived() == 1


async def test_transaction_in_no_block_at_the_deadline_is_named(account: Account) -> None:
    await account.mined_by_hand()
    with pytest.raises(ChainUnavailable, match=r"transfer: [0-9a-f]{64} is in no block after 0 s"):
        await account.transfer(account.sender(SendingPolicy(deadline_s=0.3)))


async def test_node_that_is_on_another_chain_now_is_named_when_it_refuses(account: Account) -> None:
    refusal = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": "invalid chain id for signer"}}
    account.faulty.faults["eth_sendRawTransaction"] = instead(lambda: web.json_response(refusal))
    sender = account.sender()
    with pytest.raises(NodeRefused, match="invalid chain id"):
        await account.transfer(sender)
    account.faulty.faults["eth_chainId"] = instead(lambda: answer("0x5"))
    with pytest.raises(ForeignChain, match="is on chain 5 now, not on 31337"):
        await account.transfer(sender)


async def test_contracts_refusal_is_told_before_anything_is_sent(account: Account) -> None:
    with pytest.raises(ChainReverted, match="transfer"):
        await account.transfer(account.sender(), 5_000)
    assert await account.arrived() == 0
