"""The public string of a round: what everything in it is bound to, and what its public elements come from. Pure.

    magic b"GOTK", version 1, custodians u8 (1 or 3), reserved u16 | chain id u64 | registry 20 | task 32 | round u64
    base 32 | policy 32 | parameters u32 | a Curve25519 key of 32 bytes for each custodian

Little-endian. It holds no secret. All of it but the custodians' keys is on chain before the round opens; the keys are
drawn for the round. Its SHA-256 names it, and the public elements come from that: who wants to choose one must search
for it (decision 0009).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gemel.errors import Malformed
from gemel.wire.eip712 import Domain
from gemel.wire.types import Address, BoxKey, Digest, sha256

_HEAD = struct.Struct("<4sBBHQ20s32sQ32s32sI")
_MAGIC, _VERSION = b"GOTK", 1
_KEY_BYTES = 32
CUSTODIANS = (1, 3)


@dataclass(frozen=True, slots=True)
class RoundContext:
    """A round's facts. With one custodian it can open every update it can see; of three, any two are needed."""

    chain_id: int
    registry: Address
    task: Digest
    round: int
    base: Digest
    policy: Digest
    parameters: int
    custodians: tuple[BoxKey, ...]

    def __post_init__(self) -> None:
        if len(self.custodians) not in CUSTODIANS or len(set(self.custodians)) != len(self.custodians):
            raise ValueError(f"one custodian or three different ones, got {self.custodians}")

    @property
    def domain(self) -> Domain:
        """What signatures of this round are bound to."""
        return Domain(self.chain_id, self.registry)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the packed string."""
        return sha256(self.pack())

    def pack(self) -> bytes:
        """The string."""
        head = _HEAD.pack(
            _MAGIC,
            _VERSION,
            len(self.custodians),
            0,
            self.chain_id,
            bytes.fromhex(self.registry[2:]),
            bytes.fromhex(self.task),
            self.round,
            bytes.fromhex(self.base),
            bytes.fromhex(self.policy),
            self.parameters,
        )
        return head + b"".join(bytes.fromhex(key) for key in self.custodians)

    @classmethod
    def parse(cls, data: bytes) -> RoundContext:
        """Raises Malformed unless `data` is such a string, to the last byte."""
        if len(data) < _HEAD.size:
            raise Malformed("round context", "too short")
        magic, version, count, reserved, chain_id, registry, task, round_, base, policy, parameters = (
            _HEAD.unpack_from(data)
        )
        if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
            raise Malformed("round context", "magic or version is not ours")
        if len(data) != _HEAD.size + count * _KEY_BYTES:
            raise Malformed("round context", f"{len(data)} bytes for {count} custodians")
        keys = tuple(data[at : at + _KEY_BYTES].hex() for at in range(_HEAD.size, len(data), _KEY_BYTES))
        try:
            return cls(
                chain_id=chain_id,
                registry="0x" + registry.hex(),
                task=task.hex(),
                round=round_,
                base=base.hex(),
                policy=policy.hex(),
                parameters=parameters,
                custodians=keys,
            )
        except ValueError as error:
            raise Malformed("round context", str(error)) from error
