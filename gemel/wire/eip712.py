"""EIP-712 typed data, for structs of static types only (https://eips.ethereum.org/EIPS/eip-712).

Every struct that Gemel signs is flat and static, so the standard reduces to one line: keccak(type hash ‖ words).
The unit tests hold this against eth-account's encoder; docs/decisions/0003-own-eip712.md says why it is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from eth_hash.auto import keccak

from gemel.wire.types import Address, Digest

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_NAME, _VERSION = keccak(b"Gemel"), keccak(b"1")


def word(value: int | str | bytes) -> bytes:
    """One 32-byte ABI word: unsigned integers and booleans, addresses (`0x…`), digests (64 hex), bytes32."""
    if isinstance(value, int):  # bool is an int, and encodes as one
        return value.to_bytes(32, "big")
    if isinstance(value, bytes):
        if len(value) != 32:
            raise ValueError(f"bytes32 expected, got {len(value)} bytes")
        return value
    if value.startswith("0x"):
        address = bytes.fromhex(value[2:])
        if len(address) != 20:
            raise ValueError(f"address expected, got {len(address)} bytes")
        return address.rjust(32, b"\0")
    return word(bytes.fromhex(value))


@dataclass(frozen=True, slots=True)
class Domain:
    """What a signature is bound to: one registry contract on one chain."""

    chain_id: int
    registry: Address

    @property
    def separator(self) -> bytes:
        """The EIP-712 domain separator, 32 bytes."""
        return _separator(self.chain_id, self.registry)

    def hash(self, type_string: str, *values: int | str | bytes) -> bytes:
        """The 32 bytes to sign for a struct: `type_string` as EIP-712's encodeType, values in its order."""
        return bytes(keccak(b"\x19\x01" + self.separator + struct_hash(type_string, *values)))


def struct_hash(type_string: str, *values: int | str | bytes) -> bytes:
    """A struct's 32 bytes without a domain: what contracts name things by. A string goes in as its keccak."""
    return bytes(keccak(keccak(type_string.encode()) + b"".join(word(v) for v in values)))


@lru_cache(maxsize=64)
def _separator(chain_id: int, registry: Address) -> bytes:
    return bytes(keccak(_DOMAIN_TYPE + _NAME + _VERSION + word(chain_id) + word(registry)))


@lru_cache(maxsize=64)
def task_id(task: str) -> Digest:
    """The 32-byte name of a learning task in headers and on chain: keccak of its text."""
    return bytes(keccak(task.encode())).hex()
