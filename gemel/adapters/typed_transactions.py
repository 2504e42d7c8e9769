"""EIP-1559 transactions as bytes: signed, rebuilt from what a node shows, and opened again. No web3, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rlp
from eth_hash.auto import keccak

from gemel.errors import Malformed
from gemel.wire.identity import Identity, recover
from gemel.wire.types import Address, Digest

_TYPE = b"\x02"


@dataclass(frozen=True, slots=True)
class Transaction:
    """What we send: no access list."""

    chain_id: int
    nonce: int
    priority_fee_wei: int
    max_fee_wei: int
    gas: int
    to: Address | None  # None creates a contract
    data: bytes
    value_wei: int = 0


@dataclass(frozen=True, slots=True)
class OpenedTransaction:
    """What is in a signed transaction, and who signed it."""

    hash: Digest
    sender: Address
    chain_id: int
    nonce: int
    to: Address | None
    data: bytes


def sign_transaction(transaction: Transaction, identity: Identity) -> bytes:
    """The transaction as it travels; keccak of it is its hash."""
    fields = [
        transaction.chain_id,
        transaction.nonce,
        transaction.priority_fee_wei,
        transaction.max_fee_wei,
        transaction.gas,
        _raw_address(transaction.to),
        transaction.value_wei,
        transaction.data,
        [],
    ]
    signature = identity.sign(keccak(_TYPE + rlp.encode(fields)))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return bytes(_TYPE + rlp.encode([*fields, signature[64] - 27, r, s]))


def rebuild_transaction(shown: Mapping[str, Any]) -> bytes:
    """A transaction's bytes from what a node shows of it (web3's names): nodes need not hand out the bytes.

    Raises Malformed if it is of another type or does not hash to its name.
    """
    name = bytes(shown["hash"]).hex()
    if shown["type"] != 2:
        raise Malformed("transaction", f"{name} is of type {shown['type']}, ours are of type 2")
    access = [
        [_raw_address(each["address"]), [bytes(key) for key in each["storageKeys"]]] for each in shown["accessList"]
    ]
    fields = [
        *(shown[each] for each in ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")),
        _raw_address(shown["to"]),
        shown["value"],
        bytes(shown["input"]),
        access,
        shown["v"] if "yParity" not in shown else shown["yParity"],
        int.from_bytes(shown["r"], "big"),
        int.from_bytes(shown["s"], "big"),
    ]
    raw = bytes(_TYPE + rlp.encode(fields))
    if keccak(raw).hex() != name:
        raise Malformed("transaction", f"{name} does not rebuild to its hash")
    return raw


def open_transaction(raw: bytes) -> OpenedTransaction:
    """The content and the signer of a signed transaction. Raises Malformed, or Refused(bad_signature)."""
    try:
        if raw[:1] != _TYPE:
            raise ValueError("not of type 2")  # noqa: TRY301 - one way out for all that does not parse
        fields = rlp.decode(raw[1:])
        chain_id, nonce, _, _, _, to, _, data, _, parity, r, s = fields
        numbers = [int.from_bytes(each, "big") for each in (chain_id, nonce, parity)]
        signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + bytes([numbers[2] + 27])
    except (ValueError, TypeError, AttributeError, rlp.exceptions.RLPException) as error:
        raise Malformed("transaction", str(error)) from error
    return OpenedTransaction(
        hash=keccak(raw).hex(),
        sender=recover(keccak(_TYPE + rlp.encode(fields[:9])), signature),
        chain_id=numbers[0],
        nonce=numbers[1],
        to="0x" + to.hex() if to else None,
        data=data,
    )


def _raw_address(address: str | None) -> bytes:
    return bytes.fromhex(address[2:]) if address else b""
