"""Sending transactions signed with our own key: nonce, fees, gas, receipt. One `Sender` for each key in a process.

A transaction lives here until its receipt is as deep as asked for. On the way it is handed in again when the node has
forgotten it (a restart, a block that was replaced), and replaced by itself at a higher price when it waits too long.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import dataclass

from eth_hash.auto import keccak

from gemel.adapters.contract_abi import decode_error
from gemel.adapters.evm_node import CallReverted, EvmNode, ForeignChain, NodeRefused, Receipt
from gemel.adapters.typed_transactions import Transaction, sign_transaction
from gemel.errors import ChainReverted, ChainUnavailable
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Digest

FIRST_POLL_S, LONGEST_POLL_S = 0.005, 0.25  # chains that make a block at once, and those that take seconds
FORGOTTEN_S = 2.0  # how often a node is asked whether it still knows what waits
NONCE_TRIES = 5  # another process with the same key may take a nonce before us
GWEI = 10**9
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SendingPolicy:
    """What a transaction may cost, and how long it is cared for."""

    max_fee_gwei: float = 500.0  # for one gas, base fee and tip together
    gas_margin: float = 0.25  # above the estimate: other calls may be in the block before ours
    gas_ceiling: int = 2**24  # for one transaction; more than this no block takes (EIP-7825)
    confirmations: int = 0  # blocks that must lie above the receipt's
    stuck_s: float = 20.0  # in no block after so long: replaced at a higher price
    deadline_s: float = 60.0  # without any progress

    @property
    def ceiling_wei(self) -> int:
        """`max_fee_gwei` in wei."""
        return int(self.max_fee_gwei * GWEI)


class FeeAboveCeiling(ChainUnavailable):
    """The chain asks for more than our policy lets us pay; fees fall again, or the operator allows more."""

    def __init__(self, call: str, asked_wei: int, ceiling_wei: int) -> None:
        super().__init__(
            f"{call}: the chain asks {asked_wei / GWEI:g} gwei a gas, max_fee_gwei allows {ceiling_wei / GWEI:g}"
        )
        self.call, self.asked_wei, self.ceiling_wei = call, asked_wei, ceiling_wei


class GasAboveCeiling(ChainUnavailable):
    """A call would take more gas than our policy lets us buy."""

    def __init__(self, call: str, gas: int, ceiling: int) -> None:
        super().__init__(f"{call}: {gas} gas, gas_ceiling allows {ceiling}")
        self.call, self.gas, self.ceiling = call, gas, ceiling


@dataclass(slots=True)
class _Pending:
    """A call on its way: the transactions that carry it share a nonce, so that at most one of them counts."""

    call: str
    newest: Transaction
    sent: dict[Digest, bytes]  # the oldest first
    sent_s: float  # when the newest was


class Sender:
    """Sends with one key. Calls that run at the same time take their nonces one after the other."""

    def __init__(
        self, node: EvmNode, identity: Identity, chain_id: int, *, policy: SendingPolicy | None = None
    ) -> None:
        self._node, self._identity, self._chain_id = node, identity, chain_id
        self._policy = policy or SendingPolicy()
        self._turn = asyncio.Lock()
        self._waiting: dict[int, _Pending] = {}  # by nonce; also those that nobody waits for any more

    async def send(self, call: str, to: Address | None, data: bytes, *, value_wei: int = 0) -> Receipt:
        """Send `data` to a contract (or create one) and return the receipt once it is as deep as the policy asks.

        `call` names it in errors. Raises ChainReverted with the contract's error, FeeAboveCeiling or GasAboveCeiling
        before anything is sent, ChainUnavailable when no node answers or the transaction makes no progress for
        `deadline_s`; it may still get into a block.
        """
        try:
            async with self._turn:
                pending = await self._hand_in(call, to, data, value_wei)
            receipt = await self._wait(pending)
            if not receipt.succeeded:  # it held when we estimated, but somebody was faster: ask again for the reason
                await self._node.estimate_gas(to, data, sender=self._identity.address)
                raise ChainReverted(call, "Unknown", {"transaction": receipt.transaction})
        except CallReverted as error:
            raise ChainReverted(call, *decode_error(error.data)) from error
        return receipt

    # --- on the way there ---------------------------------------------------------------------------

    async def _hand_in(self, call: str, to: Address | None, data: bytes, value_wei: int) -> _Pending:
        gas = await self._gas(call, to, data)
        tip, fee = await self._fees(call)
        nonce = await self._node.next_nonce(self._identity.address)
        for tries_left in reversed(range(NONCE_TRIES)):
            transaction = Transaction(self._chain_id, nonce, tip, fee, gas, to, data, value_wei)
            digest, raw = self._signed(transaction)
            try:
                await self._node.send(raw)
            except NodeRefused:
                await self._require_chain()
                if await self._node.transaction(digest) is not None:
                    break  # a try before this one was taken, and its answer lost
                taken, nonce = nonce, await self._node.next_nonce(self._identity.address)
                if nonce == taken or not tries_left:
                    raise
            except ChainUnavailable as error:
                _log.debug("%s: %s may have been taken: %s", call, digest, error)
                break  # whoever waits for it hands it in again
            else:
                break
        pending = _Pending(call, transaction, {digest: raw}, asyncio.get_running_loop().time())
        self._waiting[transaction.nonce] = pending
        return pending

    async def _gas(self, call: str, to: Address | None, data: bytes) -> int:
        estimate = await self._node.estimate_gas(to, data, sender=self._identity.address)
        if estimate > self._policy.gas_ceiling:
            raise GasAboveCeiling(call, estimate, self._policy.gas_ceiling)
        return min(int(estimate * (1 + self._policy.gas_margin)), self._policy.gas_ceiling)

    async def _fees(self, call: str) -> tuple[int, int]:
        """Tip and most that is paid in all, wei for one gas."""
        base = (await self._node.head()).base_fee_wei
        tip = await self._node.priority_fee()
        ceiling = self._policy.ceiling_wei
        if base + tip > ceiling:
            raise FeeAboveCeiling(call, base + tip, ceiling)
        return tip, min(2 * base + tip, ceiling)  # lasts through six full blocks in a row

    def _signed(self, transaction: Transaction) -> tuple[Digest, bytes]:
        raw = sign_transaction(transaction, self._identity)
        return keccak(raw).hex(), raw

    async def _require_chain(self) -> None:
        actual = await self._node.chain_id()
        if actual != self._chain_id:
            raise ForeignChain(f"{self._node.rpc_url} is on chain {actual} now, not on {self._chain_id}")

    # --- until it is there --------------------------------------------------------------------------

    async def _wait(self, pending: _Pending) -> Receipt:
        clock = asyncio.get_running_loop().time
        until, cared_s, pause, height = clock() + self._policy.deadline_s, clock(), FIRST_POLL_S, -1
        state = "in no block"
        while clock() < until:
            try:
                receipt = await self._receipt(pending)
                if receipt is not None:
                    head = (await self._node.head()).number if self._policy.confirmations else receipt.block
                    depth = head - receipt.block
                    if depth >= self._policy.confirmations and await self._stands(pending, receipt):
                        self._done(pending)
                        return receipt
                    state = f"{depth} blocks deep, {self._policy.confirmations} needed,"
                    if head > height:
                        height, until = head, clock() + self._policy.deadline_s
                elif clock() >= cared_s + min(FORGOTTEN_S, self._policy.stuck_s):
                    state, cared_s = "in no block", clock()
                    await self._care_for(pending)
            except ChainUnavailable as error:
                _log.debug("%s: %s", pending.call, error)
                state = f"unheard of ({error})"
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_S)
        raise ChainUnavailable(
            f"{pending.call}: {' or '.join(pending.sent)} is {state} after {self._policy.deadline_s:.0f} s"
        )

    async def _receipt(self, pending: _Pending) -> Receipt | None:
        for digest in pending.sent:
            receipt = await self._node.receipt(digest)
            if receipt is not None:
                return receipt
        return None

    async def _stands(self, pending: _Pending, receipt: Receipt) -> bool:
        """Whether its block is still the chain's, which may have changed while we asked for the head."""
        return self._policy.confirmations == 0 or await self._receipt(pending) == receipt

    def _done(self, pending: _Pending) -> None:
        """What has the same nonce, or one below, is in a block too: nonces are used in order."""
        self._waiting = {nonce: each for nonce, each in self._waiting.items() if nonce > pending.newest.nonce}

    async def _care_for(self, pending: _Pending) -> None:
        """Keep everything alive that must be in a block before this can be."""
        clock = asyncio.get_running_loop().time
        for nonce, each in sorted(self._waiting.items()):
            if nonce > pending.newest.nonce:
                return
            try:
                if clock() - each.sent_s >= self._policy.stuck_s:
                    await self._replace(each)
                elif await self._node.transaction(next(reversed(each.sent))) is None:
                    await self._node.send(next(reversed(each.sent.values())))
            except FeeAboveCeiling as error:
                _log.warning("in no block, and not replaced: %s", error)
            except NodeRefused as error:
                _log.debug("%s: %s", each.call, error)  # it is known, or in a block: the receipt will tell

    async def _replace(self, stuck: _Pending) -> None:
        """The same call under the same nonce, an eighth dearer at least: nodes want to see a tenth, or an eighth."""
        old, stuck.sent_s = stuck.newest, asyncio.get_running_loop().time()
        tip, fee = await self._fees(stuck.call)
        tip, fee = max(tip, _eighth_more(old.priority_fee_wei)), max(fee, _eighth_more(old.max_fee_wei))
        if fee > self._policy.ceiling_wei:
            raise FeeAboveCeiling(stuck.call, fee, self._policy.ceiling_wei)
        stuck.newest = dataclasses.replace(old, priority_fee_wei=min(tip, fee), max_fee_wei=fee)
        digest, raw = self._signed(stuck.newest)
        stuck.sent[digest] = raw  # before it is sent: its answer may be lost
        _log.warning("%s: in no block, replaced by %s at %g gwei", stuck.call, digest, fee / GWEI)
        await self._node.send(raw)


def _eighth_more(wei: int) -> int:
    return -(-wei * 9 // 8)
