"""One signed, fixed-length header in front of everything a service says; nothing behind it is parsed before it holds.

    offset  size  field
    0       4     magic b"GEML"
    4       1     version (1)
    5       1     kind
    6       2     reserved, zero
    8       8     chain id
    16      20    registry contract
    36      20    sender
    56      32    task (keccak of its name)
    88      8     round
    96      32    base: digest of the model that the round starts from
    128     32    policy: digest of the round's policy
    160     8     weight: n_k, the samples behind an update; 0 on everything else
    168     8     issued at, milliseconds since 1970
    176     8     body length
    184     32    body digest (SHA-256)
    216     65    signature r ‖ s ‖ v (EIP-712 over the fields above)
    281           body

Integers are big-endian. `open_envelope` checks in this order and stops at the first that fails: size, form,
chain and registry and task, kind, round, base and policy, sender, body length, signature, body digest.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass, replace
from enum import IntEnum

from gemel.errors import Malformed, Refused
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.identity import SIGNATURE_BYTES, Identity, recover
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_DIGEST, Address, Digest, sha256

MAGIC, VERSION = b"GEML", 1
_FIELDS = struct.Struct(">4sBBHQ20s20s32sQ32s32sQQQ32s")
HEADER_BYTES = _FIELDS.size + SIGNATURE_BYTES
_TYPE = (
    "Message(uint8 kind,address sender,bytes32 task,uint64 round,bytes32 base,bytes32 policy,"
    "uint64 weight,uint64 issuedAt,uint64 bodyLength,bytes32 bodyDigest)"
)


class Kind(IntEnum):
    """What an envelope holds; the number is signed."""

    INVITATION = 1
    COMMITMENT = 2
    ROSTER = 3
    UPDATE = 4
    RECEIPT = 5
    CONTEXT = 6
    AGGREGATE = 7
    OPENED = 8
    CANDIDATE = 9
    DEPLOYMENT = 10
    INSTALLED = 11
    FETCH = 12
    MODEL = 13
    ROUND_REQUEST = 14
    ROUND_ANSWER = 15
    LETTER = 16
    LETTER_RECEIPT = 17
    KEY_TOTAL = 18
    TRAINING_REQUEST = 19
    TRAINING_ANSWER = 20
    BALLOT = 21
    STANDING = 22
    HANDOVER = 23
    HEALTH_ALERT = 24


@dataclass(frozen=True, slots=True)
class Header:
    """The signed facts about a message. `signature` is empty until `sign` has filled it."""

    kind: Kind
    chain_id: int
    registry: Address
    sender: Address
    task: Digest
    round: int
    base: Digest
    policy: Digest
    weight: int
    issued_at_ms: int
    body_length: int
    body_digest: Digest
    signature: bytes = b""

    def pack(self) -> bytes:
        """The header's 281 bytes. Raises ValueError where it is not signed."""
        if len(self.signature) != SIGNATURE_BYTES:
            raise ValueError("header is not signed")
        return (
            _FIELDS.pack(
                MAGIC,
                VERSION,
                self.kind,
                0,
                self.chain_id,
                bytes.fromhex(self.registry[2:]),
                bytes.fromhex(self.sender[2:]),
                bytes.fromhex(self.task),
                self.round,
                bytes.fromhex(self.base),
                bytes.fromhex(self.policy),
                self.weight,
                self.issued_at_ms,
                self.body_length,
                bytes.fromhex(self.body_digest),
            )
            + self.signature
        )

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read the first 281 bytes of `data`. Checks form only; raises Malformed."""
        if len(data) < HEADER_BYTES:
            raise Malformed("header", f"{len(data)} bytes, {HEADER_BYTES} needed")
        magic, version, kind, reserved, chain_id, registry, sender, task, round_, base, policy, *rest = (
            _FIELDS.unpack_from(data)
        )
        weight, issued_at_ms, body_length, body_digest = rest
        if magic != MAGIC or version != VERSION or reserved != 0:
            raise Malformed("header", "magic or version is not ours")
        try:
            kind = Kind(kind)
        except ValueError:
            raise Malformed("header", f"unknown kind {kind}") from None
        return cls(
            kind=kind,
            chain_id=chain_id,
            registry="0x" + registry.hex(),
            sender="0x" + sender.hex(),
            task=task.hex(),
            round=round_,
            base=base.hex(),
            policy=policy.hex(),
            weight=weight,
            issued_at_ms=issued_at_ms,
            body_length=body_length,
            body_digest=body_digest.hex(),
            signature=bytes(data[_FIELDS.size : HEADER_BYTES]),
        )

    @property
    def hash(self) -> bytes:
        """The 32 bytes that the sender signs."""
        return Domain(self.chain_id, self.registry).hash(
            _TYPE,
            int(self.kind),
            self.sender,
            self.task,
            self.round,
            self.base,
            self.policy,
            self.weight,
            self.issued_at_ms,
            self.body_length,
            self.body_digest,
        )

    def check_signature(self) -> None:
        """Raises Refused(bad_signature) unless `sender` signed exactly these fields."""
        if recover(self.hash, self.signature) != self.sender:
            raise Refused(Reason.BAD_SIGNATURE, f"not by {self.sender}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A header that holds, and the body that fits it."""

    header: Header
    body: bytes


@dataclass(frozen=True, slots=True)
class Expected:
    """What a receiver demands of a header. None means: any.

    `senders` is any container of addresses: a pinned set, or a view of the chain's registry.
    """

    domain: Domain
    task: str
    kind: Kind
    senders: Container[Address]
    max_body_bytes: int
    round: int | None = None
    base: Digest | None = None
    policy: Digest | None = None

    def check(self, header: Header) -> None:
        """Raises Refused with the first reason that applies. Does not look at the signature."""
        if (header.chain_id, header.registry, header.task) != (
            self.domain.chain_id,
            self.domain.registry,
            task_id(self.task),
        ):
            raise Refused(Reason.FOREIGN, "another chain, registry or task")
        if header.kind != self.kind:
            raise Refused(Reason.WRONG_KIND, f"{header.kind.name}, expected {self.kind.name}")
        if self.round is not None and header.round != self.round:
            raise Refused(Reason.STALE_ROUND, f"round {header.round}, this is {self.round}")
        if self.base is not None and header.base != self.base:
            raise Refused(Reason.WRONG_BASE, f"base {header.base[:12]}, expected {self.base[:12]}")
        if self.policy is not None and header.policy != self.policy:
            raise Refused(Reason.WRONG_POLICY, f"policy {header.policy[:12]}")
        if header.sender not in self.senders:
            raise Refused(Reason.UNREGISTERED, header.sender)
        if header.body_length > self.max_body_bytes:
            raise Refused(Reason.TOO_LARGE, f"{header.body_length} bytes, at most {self.max_body_bytes}")


def sign(
    identity: Identity,
    domain: Domain,
    task: str,
    kind: Kind,
    body: bytes,
    *,
    issued_at_ms: int,
    round: int = 0,  # noqa: A002  the field's own term
    base: Digest = NO_DIGEST,
    policy: Digest = NO_DIGEST,
    weight: int = 0,
) -> Envelope:
    """Put a signed header in front of `body`."""
    header = Header(
        kind=kind,
        chain_id=domain.chain_id,
        registry=domain.registry,
        sender=identity.address,
        task=task_id(task),
        round=round,
        base=base,
        policy=policy,
        weight=weight,
        issued_at_ms=issued_at_ms,
        body_length=len(body),
        body_digest=sha256(body),
    )
    return Envelope(replace(header, signature=identity.sign(header.hash)), body)


def pack(envelope: Envelope) -> bytes:
    """Header and body as they travel."""
    return envelope.header.pack() + envelope.body


def open_envelope(data: bytes, expected: Expected) -> Envelope:
    """The envelope in `data`, if it holds; Refused or Malformed otherwise. The body is never looked into."""
    header = Header.parse(data)
    expected.check(header)
    if len(data) - HEADER_BYTES != header.body_length:
        raise Refused(Reason.WRONG_LENGTH, f"{len(data) - HEADER_BYTES} bytes, {header.body_length} signed")
    header.check_signature()
    body = bytes(data[HEADER_BYTES:])
    if sha256(body) != header.body_digest:
        raise Refused(Reason.DIGEST_MISMATCH, "body is not the one that was signed")
    return Envelope(header, body)
