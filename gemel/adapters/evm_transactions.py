"""Sending transactions signed with our own key: nonce, fees, gas, receipt. One `Sender` for each key in a process."""

from __future__ import annotations

import asyncio

from eth_hash.auto import keccak

from gemel.adapters.contract_abi import decode_error
from gemel.adapters.evm_node import CallReverted, EvmNode, NodeRefused, Receipt
from gemel.adapters.typed_transactions import Transaction, sign_transaction
from gemel.errors import ChainReverted, ChainUnavailable
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Digest

RECEIPT_DEADLINE_S = 60.0
FIRST_POLL_S, LONGEST_POLL_S = 0.005, 0.25  # chains that make a block at once, and those that take seconds
NONCE_TRIES = 5  # another process with the same key may take a nonce before us


class Sender:
    """Sends with one key. Calls that run at the same time take their nonces one after the other."""

    def __init__(self, node: EvmNode, identity: Identity, chain_id: int) -> None:
        self._node, self._identity, self._chain_id = node, identity, chain_id
        self._turn = asyncio.Lock()

    async def send(self, call: str, to: Address | None, data: bytes, *, value_wei: int = 0) -> Receipt:
        """Send `data` to a contract (or create one) and return the receipt once it is in a block.

        `call` names it in errors. Raises ChainReverted with the contract's error, ChainUnavailable when no node
        answers or the transaction is in no block after RECEIPT_DEADLINE_S; it may still get into one.
        """
        try:
            async with self._turn:
                digest = await self._hand_in(to, data, value_wei)
            receipt = await self._wait(call, digest)
            if not receipt.succeeded:  # it held when we estimated, but somebody was faster: ask again for the reason
                await self._node.estimate_gas(to, data, sender=self._identity.address)
                raise ChainReverted(call, "Unknown", {"transaction": digest})
        except CallReverted as error:
            raise ChainReverted(call, *decode_error(error.data)) from error
        return receipt

    async def _hand_in(self, to: Address | None, data: bytes, value_wei: int) -> Digest:
        gas = await self._node.estimate_gas(to, data, sender=self._identity.address)
        head = await self._node.head()
        tip = await self._node.priority_fee()
        fee = 2 * head.base_fee_wei + tip  # lasts through six full blocks in a row
        nonce = await self._node.next_nonce(self._identity.address)
        for tries_left in reversed(range(NONCE_TRIES)):
            # a quarter above the estimate: other calls may be in the block before ours
            transaction = Transaction(self._chain_id, nonce, tip, fee, gas * 5 // 4, to, data, value_wei)
            raw = sign_transaction(transaction, self._identity)
            digest: Digest = keccak(raw).hex()
            try:
                await self._node.send(raw)
            except NodeRefused:
                if await self._node.transaction(digest) is not None:
                    break  # a try before this one was taken, and its answer lost
                taken, nonce = nonce, await self._node.next_nonce(self._identity.address)
                if nonce == taken or not tries_left:
                    raise
            else:
                break
        return digest

    async def _wait(self, call: str, digest: Digest) -> Receipt:
        try:
            async with asyncio.timeout(RECEIPT_DEADLINE_S):
                pause = FIRST_POLL_S
                while True:
                    receipt = await self._node.receipt(digest)
                    if receipt is not None:
                        return receipt
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_POLL_S)
        except TimeoutError as error:
            raise ChainUnavailable(f"{call}: {digest} is in no block after {RECEIPT_DEADLINE_S:.0f} s") from error
