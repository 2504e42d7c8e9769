"""What the chain says of a fleet as one JSON file, for whoever audits it without a node.

Every transaction that created one of the contracts or left an event of theirs, as signed bytes, with its receipt and
its block. An auditor need not believe the logs: he runs the signed calls once more (gemel/console/auditor).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import CONTRACTS, Values, decode_event, load
from gemel.adapters.typed_transactions import open_transaction, rebuild_transaction
from gemel.errors import ChainUnavailable, Malformed
from gemel.ports import ChainEvent
from gemel.wire.types import Address, Count, Digest

if TYPE_CHECKING:  # reading an export needs no web3
    from gemel.adapters.evm_node import EvmNode, Header, Receipt

_VERSION, _RANGE = 2, 500


class ExportedLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One log entry; topics and data in hex."""

    address: Address
    index: Count
    topics: tuple[str, ...]
    data: str


class ExportedTransaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transaction with its receipt; `raw` is its signed bytes in hex."""

    hash: Digest
    block: Count
    gas: Count
    raw: str
    logs: tuple[ExportedLog, ...]


class ExportedBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A block that holds such a transaction; genesis and the last block too."""

    number: Count
    hash: Digest
    parent: Digest
    timestamp_s: Count


class ChainExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. Blocks and transactions in the chain's order."""

    version: int
    chain_id: Count
    contracts: dict[str, Address]  # by name
    blocks: tuple[ExportedBlock, ...]
    transactions: tuple[ExportedTransaction, ...]


class Call(msgspec.Struct, frozen=True):
    """What somebody signed and sent: a function of one of the contracts, with its arguments by name."""

    transaction: Digest
    block: Count
    sender: Address
    contract: str
    function: str
    arguments: Values


async def export_chain(node: EvmNode, place: ChainPlace) -> ChainExport:
    """Collect it from a node. Raises ChainUnavailable, Malformed."""
    addresses = tuple(place.contracts.values())
    head = await node.head()
    digests = dict.fromkeys(place.created_in.values())  # each once
    for first in range(place.first_block, head.number + 1, _RANGE):
        last = min(first + _RANGE - 1, head.number)
        for log in await node.logs(addresses, first, last):
            digests[log.transaction] = None
    receipts = sorted([await _receipt(node, digest) for digest in digests], key=lambda each: each.block)
    numbers = sorted({0, head.number, *(receipt.block for receipt in receipts)})
    return ChainExport(
        version=_VERSION,
        chain_id=await node.chain_id(),
        contracts=place.contracts,
        blocks=tuple([await _block(node, number) for number in numbers]),
        transactions=tuple([await _transaction(node, receipt) for receipt in receipts]),
    )


def encode_export(export: ChainExport) -> bytes:
    """The file's bytes."""
    return msgspec.json.format(msgspec.json.encode(export), indent=1)


def decode_export(data: bytes) -> ChainExport:
    """Read the file. Raises Malformed."""
    try:
        export = msgspec.json.decode(data, type=ChainExport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("chain export", str(error)) from error
    if export.version != _VERSION:
        raise Malformed("chain export", f"version {export.version}, {_VERSION} expected")
    if export.contracts.keys() != set(CONTRACTS):
        raise Malformed("chain export", f"contracts: exactly {', '.join(CONTRACTS)}")
    return export


def exported_events(export: ChainExport) -> Iterator[ChainEvent]:
    """All events, as `Chain.events` hands them out. Raises Malformed for logs that are none."""
    hashes = {block.number: block.hash for block in export.blocks}
    names = {address: name for name, address in export.contracts.items()}
    for transaction in export.transactions:
        if transaction.block not in hashes:
            raise Malformed("chain export", f"block {transaction.block} is missing")
        for log in transaction.logs:
            if log.address not in names:
                continue  # a contract that is none of ours
            decoded = _decode_log(names[log.address], log)
            if decoded is not None:
                block_hash = hashes[transaction.block]
                identifier = f"{block_hash}-{log.index}"
                yield ChainEvent(identifier, *decoded, transaction.block, block_hash, transaction.hash)


def exported_calls(export: ChainExport) -> Iterator[Call]:
    """All calls, from the signed bytes. Raises Malformed, or Refused(bad_signature), for bytes that do not hold."""
    contracts = {address: name for name, address in export.contracts.items()}
    for transaction in export.transactions:
        opened = open_transaction(_unhex(transaction.raw))
        if opened.hash != transaction.hash or opened.chain_id != export.chain_id:
            raise Malformed("chain export", f"the bytes of {transaction.hash} are another transaction's")
        if opened.to is None:
            continue  # the creation of a contract
        contract = contracts.get(opened.to)
        functions = {entry.selector: entry for entry in load(contract).functions.values()} if contract else {}
        entry = functions.get(opened.data[:4])
        if contract is None or entry is None:
            raise Malformed("chain export", f"{transaction.hash} calls none of the contracts")
        arguments = entry.decode_inputs(opened.data[4:])
        yield Call(opened.hash, transaction.block, opened.sender, contract, entry.name, arguments)


def _decode_log(contract: str, log: ExportedLog) -> tuple[str, Values] | None:
    return decode_event(contract, [_unhex(topic) for topic in log.topics], _unhex(log.data))


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise Malformed("chain export", str(error)) from error


async def _receipt(node: EvmNode, digest: Digest) -> Receipt:
    receipt = await node.receipt(digest)
    if receipt is None:
        raise ChainUnavailable(f"the node at {node.rpc_url} has a log, but no receipt, of {digest}")
    return receipt


async def _block(node: EvmNode, number: int) -> ExportedBlock:
    header: Header | None = await node.header(number)
    if header is None:
        raise ChainUnavailable(f"the node at {node.rpc_url} has lost block {number}")
    return ExportedBlock(header.number, header.hash, header.parent, header.timestamp_s)


async def _transaction(node: EvmNode, receipt: Receipt) -> ExportedTransaction:
    shown = await node.transaction(receipt.transaction)
    if shown is None:
        raise ChainUnavailable(f"the node at {node.rpc_url} has lost transaction {receipt.transaction}")
    return ExportedTransaction(
        hash=receipt.transaction,
        block=receipt.block,
        gas=receipt.gas,
        raw=rebuild_transaction(shown).hex(),
        logs=tuple(
            ExportedLog(log.address, log.index, tuple(topic.hex() for topic in log.topics), log.data.hex())
            for log in receipt.logs
        ),
    )
