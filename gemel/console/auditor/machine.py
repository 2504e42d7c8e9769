"""An EVM of our own, on which the auditor runs the contracts' code once more: no node, no network, nothing kept.

Gas, fees and balances mean nothing here: what Gemel's contracts do depends on who calls them, with what, and when.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth._utils.address import generate_contract_address
from eth.abc import ComputationAPI
from eth.constants import BLANK_ROOT_HASH, ZERO_ADDRESS
from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.state import PragueState
from eth.vm.message import Message
from eth_typing import Address as RawAddress
from eth_typing import BlockNumber, Hash32

from gemel.wire.types import Address

_GAS = 1 << 40


class CodeReverted(Exception):
    """The contracts refuse this; `data` is what they say (contract_abi.decode_error)."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


@dataclass(frozen=True, slots=True)
class EmittedLog:
    """One log entry, in order of emission."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes


class Machine:
    """One chain's state, as far as it is our contracts'. Block by block; a block may hold several transactions."""

    def __init__(self, chain_id: int) -> None:
        self._chain_id, self._db = chain_id, AtomicDB()
        self._state = self._state_at(0, 0, BLANK_ROOT_HASH)

    def enter_block(self, number: int, timestamp_s: int) -> None:
        """What runs from now on is in this block."""
        self._state.persist()
        self._state = self._state_at(number, timestamp_s, self._state.state_root)

    def create(self, sender: Address, nonce: int, code: bytes) -> tuple[Address, tuple[EmittedLog, ...]]:
        """Create a contract as a transaction with this nonce would. Raises CodeReverted."""
        place = RawAddress(generate_contract_address(_raw(sender), nonce))
        message = Message(_GAS, RawAddress(b""), _raw(sender), 0, b"", code, create_address=place)
        return _text(place), self._transact(message)

    def send(self, sender: Address, to: Address, data: bytes) -> tuple[EmittedLog, ...]:
        """Run a call that may change what is there. Raises CodeReverted, and then nothing has changed."""
        return self._transact(self._message(_raw(sender), to, data))

    def call(self, to: Address, data: bytes) -> bytes:
        """What a view answers now. Raises CodeReverted."""
        before = self._state.snapshot()
        try:
            return bytes(self._run(self._message(ZERO_ADDRESS, to, data)).output)
        finally:
            self._state.revert(before)

    def _message(self, sender: RawAddress, to: Address, data: bytes) -> Message:
        target = _raw(to)
        return Message(_GAS, target, sender, 0, data, self._state.get_code(target))

    def _transact(self, message: Message) -> tuple[EmittedLog, ...]:
        computation = self._run(message)
        self._state.lock_changes()  # transient storage and warm slots end with the transaction
        return tuple(
            EmittedLog(_text(address), tuple(topic.to_bytes(32, "big") for topic in topics), bytes(data))
            for address, topics, data in computation.get_log_entries()
        )

    def _run(self, message: Message) -> ComputationAPI:
        state = self._state
        context = state.transaction_context_class(gas_price=0, origin=message.sender)
        kind = state.computation_class
        run = kind.apply_create_message if message.is_create else kind.apply_message
        computation: ComputationAPI = run(state, message, context)
        if computation.is_error:
            raise CodeReverted(bytes(computation.output))
        return computation

    def _state_at(self, number: int, timestamp_s: int, root: Hash32) -> PragueState:
        context = ExecutionContext(
            coinbase=ZERO_ADDRESS,
            timestamp=timestamp_s,
            block_number=BlockNumber(number),
            difficulty=0,
            mix_hash=Hash32(bytes(32)),
            gas_limit=_GAS,
            prev_hashes=(),
            chain_id=self._chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )
        return PragueState(self._db, context, root)


def _raw(address: Address) -> RawAddress:
    return RawAddress(bytes.fromhex(address[2:]))


def _text(address: bytes) -> Address:
    return "0x" + bytes(address).hex()
