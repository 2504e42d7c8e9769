"""A round's sealing key as the custodian keeps it on disk. Pure: knows the form, and opens nothing.

Little-endian: magic b"GKEY", version 1, reserved 3, parameters u32, lengths u32 of policy and public context |
policy (JSON) | public context | secret context.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from gemel.errors import Malformed
from gemel.wire.messages import SealingPolicy, decode, encode
from gemel.wire.types import Digest, sha256

_HEAD = struct.Struct("<4sB3sIII")
_MAGIC, _VERSION = b"GKEY", 1


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the bytes say. `repr` shows no secret."""

    policy: SealingPolicy
    parameters: int
    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> Digest:
        """SHA-256 of the public context: what the round's announcement names, so that the two can be compared."""
        return sha256(self.public)

    def pack(self) -> bytes:
        """The bytes."""
        policy = encode(self.policy)
        head = _HEAD.pack(_MAGIC, _VERSION, b"\0\0\0", self.parameters, len(policy), len(self.public))
        return head + policy + self.public + self.secret

    @classmethod
    def parse(cls, data: bytes) -> StoredKey:
        """The inverse. Raises Malformed; whether the contexts are any, only who loads them can say."""
        if len(data) < _HEAD.size:
            raise Malformed("sealing key", "too short")
        magic, version, _, parameters, policy_bytes, public_bytes = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise Malformed("sealing key", "magic or version is not ours")
        public_start = _HEAD.size + policy_bytes
        secret_start = public_start + public_bytes
        policy = decode(SealingPolicy, data[_HEAD.size : public_start])
        return cls(policy, parameters, data[public_start:secret_start], data[secret_start:])
