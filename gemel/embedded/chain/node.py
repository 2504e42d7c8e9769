"""The chain itself: genesis, one block for each transaction, and calls. All methods block; one thread at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from eth._utils.address import generate_contract_address
from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI, StateAPI
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import BLANK_ROOT_HASH, ZERO_ADDRESS
from eth.exceptions import PyEVMError
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_hash.auto import keccak
from eth_typing import Address
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException

from gemel.embedded.chain.store import Document, Store
from gemel.errors import ConfigError

BLOCK_GAS_LIMIT = 30_000_000
PRIORITY_FEE_WEI = 10**9
ALLOCATION_WEI = 10**24  # what each funded address begins with


class InvalidTransaction(Exception):
    """A transaction that cannot be in a block; nothing has changed."""


class Reverted(Exception):
    """A call that a contract refused, with the bytes it gave."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


class CallFailed(Exception):
    """A call that ended otherwise than by a revert: out of gas, an invalid opcode."""


class _Chain(MiningChain):
    """Prague rules from block 0, no proof of anything, a constant gas limit."""

    vm_configuration = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, PragueVM),))

    def create_header_from_parent(self, parent_header: BlockHeaderAPI, **parameters: Any) -> BlockHeaderAPI:
        return super().create_header_from_parent(
            parent_header, **(parameters | {"gas_limit": parent_header.gas_limit})
        )


class Node:
    """One chain in one store."""

    def __init__(self, store: Store, chain_id: int, funded: Sequence[bytes]) -> None:
        """Open the chain in `store`, or found it with `funded` addresses; later `funded` means nothing.

        Raises ConfigError if the store holds a chain of another id.
        """
        self._store = store
        self._class: Any = type("Chain", (_Chain,), {"chain_id": chain_id})
        self.chain_id = chain_id
        stored = store.meta("chain_id")
        if stored is None:
            self._found(funded)
        elif stored != str(chain_id):
            raise ConfigError("chain", "chain_id", f"{stored}, the id of the chain in this file, not {chain_id}")
        self._chain = self._class(store.state)

    def _found(self, funded: Sequence[bytes]) -> None:
        parameters = {
            "coinbase": ZERO_ADDRESS,
            "difficulty": 0,
            "extra_data": b"",
            "gas_limit": BLOCK_GAS_LIMIT,
            "mix_hash": bytes(32),
            "nonce": bytes(8),
            "timestamp": int(time.time()),
            "transaction_root": BLANK_ROOT_HASH,
            "receipt_root": BLANK_ROOT_HASH,
        }
        accounts = {a: {"balance": ALLOCATION_WEI, "nonce": 0, "code": b"", "storage": {}} for a in funded}
        with self._store.transaction():
            chain = self._class.from_genesis(self._store.state, parameters, accounts)
            self._store.add_block(_block_document(chain.get_canonical_head(), []))
            self._store.set_meta("chain_id", str(self.chain_id))

    # --- blocks -------------------------------------------------------------------------------

    @property
    def head(self) -> BlockHeaderAPI:
        """The last block's header."""
        header: BlockHeaderAPI = self._chain.get_canonical_head()
        return header

    def block_number(self) -> int:
        """The last block's number."""
        return int(self.head.block_number)

    def mine(self, raw: bytes) -> Document:
        """Put one signed transaction into a block of its own, durably, and return the block.

        A transaction that reverts is in a block too, with status 0. Raises InvalidTransaction.
        """
        transaction = self._decode(raw)
        try:
            with self._store.transaction():
                self._chain.header = self._chain.header.copy(timestamp=self._next_timestamp())
                _, receipt, _ = self._chain.apply_transaction(transaction)
                # blob gas and mix hash are header fields of the protocol that mean nothing on one machine
                self._chain.mine_block(coinbase=ZERO_ADDRESS, mix_hash=keccak(self.head.hash), blob_gas_used=0)
                header = self.head
                block = _block_document(header, [transaction.hash])
                shown = _transaction_document(transaction, header, self.chain_id)
                self._store.add_block(block)
                self._store.add_transaction(shown, _receipt_document(transaction, shown, receipt))
        except BaseException as error:
            self._chain = self._class(self._store.state)  # forget what was half done in memory as well
            if isinstance(error, (PyEVMError, ValidationError)):
                raise InvalidTransaction(str(error)) from error
            raise
        return block

    def _next_timestamp(self) -> int:
        """Whole seconds that rise with every block: a burst of blocks runs ahead of the clock."""
        return max(int(time.time()), int(self.head.timestamp) + 1)

    def _decode(self, raw: bytes) -> SignedTransactionAPI:
        try:
            transaction: SignedTransactionAPI = self._chain.get_vm().get_transaction_builder().decode(raw)
            sender = transaction.sender
        except (PyEVMError, ValidationError, RLPException, ValueError, TypeError) as error:
            raise InvalidTransaction(f"not a signed transaction: {error}") from error
        if transaction.chain_id != self.chain_id:  # an unprotected legacy transaction has none
            raise InvalidTransaction(f"invalid chain id: {transaction.chain_id}, have {self.chain_id}")
        if self._store.transaction_by_hash(_hex(transaction.hash)) is not None:
            raise InvalidTransaction("already known")
        state = self._state(self.head)
        cost, balance = transaction.gas * transaction.max_fee_per_gas + transaction.value, state.get_balance(sender)
        if cost > balance:
            raise InvalidTransaction(f"insufficient funds: {_hex(sender)} has {balance} wei and needs {cost}")
        expected = state.get_nonce(sender)
        if transaction.nonce != expected:
            word = "low" if transaction.nonce < expected else "high"
            raise InvalidTransaction(f"nonce too {word}: next nonce {expected}, tx nonce {transaction.nonce}")
        return transaction

    # --- state at a block -----------------------------------------------------------------------

    def _header(self, number: int) -> BlockHeaderAPI:
        header: BlockHeaderAPI = self._chain.get_canonical_block_header_by_number(number)
        return header

    def _state(self, header: BlockHeaderAPI) -> StateAPI:
        state: StateAPI = self._chain.get_vm(header).state
        return state

    def balance(self, address: bytes, number: int) -> int:
        """In wei."""
        return int(self._state(self._header(number)).get_balance(Address(address)))

    def nonce(self, address: bytes, number: int) -> int:
        """How many transactions an account has sent."""
        return int(self._state(self._header(number)).get_nonce(Address(address)))

    def code(self, address: bytes, number: int) -> bytes:
        """A contract's code."""
        return bytes(self._state(self._header(number)).get_code(Address(address)))

    def base_fee(self) -> int:
        """Of the last block, in wei."""
        return _base_fee(self.head)

    def call(self, sender: bytes, to: bytes, data: bytes, value: int, gas: int, number: int) -> bytes:
        """What a call returns on top of block `number`; nothing is kept. Raises Reverted or CallFailed."""
        return bytes(self._execute(sender, to, data, value, gas, self._header(number))[1].output)

    def estimate_gas(self, sender: bytes, to: bytes, data: bytes, value: int, gas: int, number: int) -> int:
        """Enough gas for this transaction in the block that comes next. Raises Reverted or CallFailed."""
        header = self._header(number)
        if number == self.block_number():  # a block is made when something is sent: the head's time may be long ago
            header = header.copy(timestamp=self._next_timestamp())
        transaction, computation = self._execute(sender, to, data, value, gas, header)
        tokens = 4 * len(data) - 3 * data.count(0)
        floor = 21_000 + 10 * tokens  # EIP-7623: call data has a least price
        used = transaction.intrinsic_gas + computation.get_gas_used()
        return int(max(used, floor) * 17 // 16)  # an inner call may use no more than 63/64 of what is left

    def _execute(
        self, sender: bytes, to: bytes, data: bytes, value: int, gas: int, header: BlockHeaderAPI
    ) -> tuple[SpoofTransaction, ComputationAPI]:
        vm = self._chain.get_vm(header)
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(sender), gas_price=0, gas=gas, to=to, value=value, data=data
        )
        transaction = SpoofTransaction(unsigned, from_=sender)
        try:
            with vm.in_costless_state() as state:
                computation = state.costless_execute_transaction(transaction)
        except (PyEVMError, ValidationError) as error:
            raise CallFailed(str(error)) from error
        if computation.is_error:
            if type(computation.error).__name__ == "Revert":
                raise Reverted(bytes(computation.output))
            raise CallFailed(f"{type(computation.error).__name__}: {computation.error}")
        return transaction, computation


# --- documents, as Ethereum's JSON-RPC shows them -----------------------------------------------


def _hex(value: bytes) -> str:
    return "0x" + bytes(value).hex()


def _base_fee(header: BlockHeaderAPI) -> int:
    assert header.base_fee_per_gas is not None  # since London every header has one
    return header.base_fee_per_gas


def _block_document(header: BlockHeaderAPI, transactions: Sequence[bytes]) -> Document:
    return {
        "number": hex(header.block_number),
        "hash": _hex(header.hash),
        "parentHash": _hex(header.parent_hash),
        "timestamp": hex(header.timestamp),
        "miner": _hex(header.coinbase),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "baseFeePerGas": hex(_base_fee(header)),
        "difficulty": "0x0",
        "extraData": _hex(header.extra_data),
        "logsBloom": _hex(header.bloom.to_bytes(256, "big")),
        "mixHash": _hex(header.mix_hash),
        "nonce": _hex(header.nonce),
        "receiptsRoot": _hex(header.receipt_root),
        "stateRoot": _hex(header.state_root),
        "transactionsRoot": _hex(header.transaction_root),
        "sha3Uncles": _hex(header.uncles_hash),
        "uncles": [],
        "size": "0x0",
        "transactions": [_hex(each) for each in transactions],
        "withdrawals": [],
    }


def _transaction_document(transaction: SignedTransactionAPI, header: BlockHeaderAPI, chain_id: int) -> Document:
    document: Document = {
        "hash": _hex(transaction.hash),
        "blockHash": _hex(header.hash),
        "blockNumber": hex(header.block_number),
        "transactionIndex": "0x0",
        "type": hex(transaction.type_id or 0),
        "chainId": hex(chain_id),
        "from": _hex(transaction.sender),
        "to": _hex(transaction.to) if transaction.to else None,
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas),
        "value": hex(transaction.value),
        "input": _hex(transaction.data),
        "v": hex(transaction.y_parity),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
    }
    if transaction.type_id == 2:
        tip = min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - _base_fee(header))
        document |= {
            "yParity": hex(transaction.y_parity),
            "accessList": [
                {"address": _hex(account), "storageKeys": [_hex(key.to_bytes(32, "big")) for key in keys]}
                for account, keys in transaction.access_list
            ],
            "maxFeePerGas": hex(transaction.max_fee_per_gas),
            "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
            "gasPrice": hex(_base_fee(header) + tip),
        }
    else:
        document["gasPrice"] = hex(transaction.gas_price)
    return document


def _receipt_document(transaction: SignedTransactionAPI, shown: Document, receipt: Any) -> Document:
    place = {key: shown[key] for key in ("blockHash", "blockNumber", "transactionIndex")}
    created = None if transaction.to else _hex(generate_contract_address(transaction.sender, transaction.nonce))
    return place | {
        "transactionHash": shown["hash"],
        "type": shown["type"],
        "from": shown["from"],
        "to": shown["to"],
        "status": "0x1" if receipt.state_root == b"\x01" else "0x0",
        "contractAddress": created,
        "gasUsed": hex(receipt.gas_used),
        "cumulativeGasUsed": hex(receipt.gas_used),
        "effectiveGasPrice": shown["gasPrice"],
        "logsBloom": _hex(receipt.bloom.to_bytes(256, "big")),
        "logs": [
            place
            | {
                "address": _hex(log.address),
                "topics": [_hex(topic.to_bytes(32, "big")) for topic in log.topics],
                "data": _hex(log.data),
                "transactionHash": shown["hash"],
                "logIndex": hex(index),
                "removed": False,
            }
            for index, log in enumerate(receipt.logs)
        ],
    }
