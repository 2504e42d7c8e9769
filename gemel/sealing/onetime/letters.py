"""What an agent sends to each custodian, and what a custodian gives out. Pure.

A key's 2048 coefficients are kept modulo 2^16. One custodian gets them whole. For three they are divided into three
parts that add up to the key, parts 0 and 1 expanded from 32-byte seeds; custodian j gets all parts but part j. One
custodian's two parts say nothing about the third; any two custodians hold all three. Each part is held twice, so that
with all three totals a false one shows; with two of them it shows when the sum does not open.

    letter  magic b"GKLT", version 1, custodian u8, custodians u8, reserved u8 | context 32 | agent 20 | update 32
            | sealed box (libsodium) of: SHA-256 of the fields before, the parts in order | signature 65
    total   magic b"GKTO", version 1, custodian u8, custodians u8, reserved u8, members u32 | context 32
            | members' digest 32 | the sums of the parts that this custodian holds, 4096 bytes each

`update` is the SHA-256 of the agent's sealed body. The agent signs (EIP-712) all fields and the box, and the box
repeats them: neither can be put with another's. Little-endian; lengths follow from the two counts.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.public import PrivateKey, PublicKey, SealedBox

from gemel.errors import Malformed, Refused
from gemel.sealing.onetime.context import CUSTODIANS, RoundContext
from gemel.sealing.onetime.plan import RING_DEGREE
from gemel.sealing.packing import Integers
from gemel.sealing.ports import Member, Part, Randomness, Share
from gemel.wire.identity import SIGNATURE_BYTES, Identity, recover
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest, sha256

_FORM = struct.Struct("<4sBBBB32s20s32s")
_MAGIC, _VERSION = b"GKLT", 1
_TOTAL_FORM = struct.Struct("<4sBBBBI32s32s")
_TOTAL_MAGIC = b"GKTO"
_TYPE = "KeyLetter(uint8 custodian,uint8 custodians,address agent,bytes32 context,bytes32 update,bytes32 box)"
_SEED_BYTES, _PART_BYTES, _BINDING_BYTES, _BOX_BYTES = 32, 2 * RING_DEGREE, 32, 48
_PART = b"gemel one-time-keys v1 part"


def parts_of(custodian: int, custodians: int) -> tuple[int, ...]:
    """Which parts a custodian holds."""
    return (0,) if custodians == 1 else tuple(part for part in range(3) if part != custodian)


def _length(part: int, custodians: int) -> int:
    return _PART_BYTES if part == custodians - 1 else _SEED_BYTES


def letter_bytes(custodian: int, custodians: int) -> int:
    """Length of a signed letter: exact."""
    held = sum(_length(part, custodians) for part in parts_of(custodian, custodians))
    return _FORM.size + _BOX_BYTES + _BINDING_BYTES + held + SIGNATURE_BYTES


def _expand(part: bytes) -> Part:
    """A part from its seed, or as it stands."""
    if len(part) == _SEED_BYTES:
        part = hashlib.shake_256(_PART + part).digest(_PART_BYTES)
    return np.frombuffer(part, "<u2").astype(np.uint16)


def divide(key: Integers, custodians: int, randomness: Randomness) -> list[bytes]:
    """A key's parts, as they travel."""
    rest = key.astype(np.uint16)  # modulo 2^16
    seeds = [randomness(_SEED_BYTES) for _ in range(custodians - 1)]
    for seed in seeds:
        rest = rest - _expand(seed)
    return [*seeds, rest.astype("<u2").tobytes()]


def write_letters(context: RoundContext, member: Member, key: Integers, randomness: Randomness) -> tuple[bytes, ...]:
    """A letter for each custodian, still to be signed. Raises Malformed for a custodian's key that hides nothing."""
    count = len(context.custodians)
    parts = divide(key, count, randomness)
    letters = []
    for custodian, box_key in enumerate(context.custodians):
        form = _FORM.pack(
            _MAGIC,
            _VERSION,
            custodian,
            count,
            0,
            bytes.fromhex(context.digest),
            bytes.fromhex(member.agent[2:]),
            bytes.fromhex(member.update),
        )
        inside = hashlib.sha256(form).digest() + b"".join(parts[part] for part in parts_of(custodian, count))
        try:
            letters.append(form + SealedBox(PublicKey(bytes.fromhex(box_key))).encrypt(inside))
        except SodiumError as error:  # a point of low order, under which anybody could open
            raise Malformed("round context", f"custodian {custodian} has no usable key") from error
    return tuple(letters)


def sign_letter(letter: bytes, identity: Identity, context: RoundContext) -> bytes:
    """A letter as it travels. Raises ValueError where it is not this agent's own."""
    _, _, custodian, count, _, _, agent, update = _FORM.unpack_from(letter)
    if "0x" + agent.hex() != identity.address:
        raise ValueError(f"a letter of 0x{agent.hex()}, not of {identity.address}")
    return letter + identity.sign(_hash(context, custodian, count, agent, update, letter[_FORM.size :]))


def _hash(context: RoundContext, custodian: int, count: int, agent: bytes, update: bytes, box: bytes) -> bytes:
    return context.domain.hash(
        _TYPE, custodian, count, "0x" + agent.hex(), context.digest, update, hashlib.sha256(box).digest()
    )


def read_letter(letter: bytes, context: RoundContext, custodian: int, secret: bytes) -> Share:
    """A letter to this custodian, opened with its Curve25519 secret.

    Raises Refused: wrong_length, malformed, digest_mismatch (of another round), not_addressed (to another, or its box
    is not its own), bad_signature. The box is opened last.
    """
    count = len(context.custodians)
    if len(letter) != letter_bytes(custodian, count):
        raise Refused(Reason.WRONG_LENGTH, f"{len(letter)} bytes, {letter_bytes(custodian, count)} needed")
    magic, version, addressed, given_count, reserved, given_context, agent, update = _FORM.unpack_from(letter)
    if (magic, version, given_count, reserved) != (_MAGIC, _VERSION, count, 0):
        raise Refused(Reason.MALFORMED, "not a letter of this version")
    if addressed != custodian:
        raise Refused(Reason.NOT_ADDRESSED, f"for custodian {addressed}")
    if given_context.hex() != context.digest:
        raise Refused(Reason.DIGEST_MISMATCH, f"of the round {given_context.hex()[:12]}")
    box, signature = letter[_FORM.size : -SIGNATURE_BYTES], letter[-SIGNATURE_BYTES:]
    address: Address = "0x" + agent.hex()
    if recover(_hash(context, custodian, count, agent, update, box), signature) != address:
        raise Refused(Reason.BAD_SIGNATURE, f"not by {address}")
    try:
        inside = SealedBox(PrivateKey(secret)).decrypt(box)
    except CryptoError:
        raise Refused(Reason.NOT_ADDRESSED, "the box does not open") from None
    if inside[:_BINDING_BYTES] != hashlib.sha256(letter[: _FORM.size]).digest():
        raise Refused(Reason.NOT_ADDRESSED, "the box belongs to another letter")
    parts, start = {}, _BINDING_BYTES
    for part in parts_of(custodian, count):
        stop = start + _length(part, count)
        parts[part] = _expand(inside[start:stop])
        start = stop
    return Share(Member(address, update.hex()), parts)


def members_digest(members: Sequence[Member]) -> Digest:
    """What names a list of members, in any order."""
    rows = (bytes.fromhex(member.agent[2:]) + bytes.fromhex(member.update) for member in members)
    return sha256(b"".join(sorted(rows)))


@dataclass(frozen=True, slots=True)
class KeyTotal:
    """What one custodian gives out: the sums, over a list of members, of the parts that it holds."""

    custodian: int
    custodians: int
    count: int
    context: Digest
    members: Digest
    parts: Mapping[int, Part]

    def pack(self) -> bytes:
        """The total's bytes; who says them must sign them."""
        head = _TOTAL_FORM.pack(
            _TOTAL_MAGIC,
            _VERSION,
            self.custodian,
            self.custodians,
            0,
            self.count,
            bytes.fromhex(self.context),
            bytes.fromhex(self.members),
        )
        held = parts_of(self.custodian, self.custodians)
        return head + b"".join(self.parts[part].astype("<u2").tobytes() for part in held)

    @classmethod
    def parse(cls, data: bytes) -> KeyTotal:
        """Raises Malformed unless `data` is a total, to the last byte."""
        if len(data) < _TOTAL_FORM.size:
            raise Malformed("key total", "too short")
        magic, version, custodian, custodians, reserved, count, context, members = _TOTAL_FORM.unpack_from(data)
        if (magic, version, reserved) != (_TOTAL_MAGIC, _VERSION, 0):
            raise Malformed("key total", "magic or version is not ours")
        if custodians not in CUSTODIANS or custodian >= custodians:
            raise Malformed("key total", f"custodian {custodian} of {custodians}")
        held = parts_of(custodian, custodians)
        if len(data) != _TOTAL_FORM.size + len(held) * _PART_BYTES:
            raise Malformed("key total", f"{len(data)} bytes")
        starts = range(_TOTAL_FORM.size, len(data), _PART_BYTES)
        parts = {part: _expand(data[at : at + _PART_BYTES]) for part, at in zip(held, starts, strict=True)}
        return cls(custodian, custodians, count, context.hex(), members.hex(), parts)


def join_totals(totals: Sequence[KeyTotal]) -> Integers:
    """The sum of the members' keys from the totals of one of one custodian, or of two or three of three.

    Raises Malformed where totals are of different sums, parts are missing, or two custodians disagree about a part.
    """
    if len({(total.custodians, total.count, total.context, total.members) for total in totals}) != 1:
        raise Malformed("key totals", "not of one sum")
    parts: dict[int, Part] = {}
    for total in totals:
        for part, values in total.parts.items():
            if not np.array_equal(parts.setdefault(part, values), values):
                raise Malformed("key totals", f"custodians disagree about part {part}")
    if len(parts) != totals[0].custodians:
        raise Malformed("key totals", f"parts {sorted(parts)} of {totals[0].custodians}: another custodian is needed")
    joined = np.zeros(RING_DEGREE, np.uint16)
    for values in parts.values():
        joined = joined + values
    return joined.view(np.int16).astype(np.int64)
