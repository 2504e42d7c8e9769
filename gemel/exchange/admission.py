"""What a commitment and a frame must be before they enter a round: coordinator and validators check the same.

Pure checks in the order of cost; each failure is a Refused with its reason. Nothing of a sealed body is parsed here
before its header, its length and its digest hold, and then only its form (gemel.sealing.frames).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from gemel.errors import Refused
from gemel.learning.weighting import Contributor, weigh
from gemel.wire import boxes, envelope, merkle
from gemel.wire.envelope import HEADER_BYTES, Envelope, Expected, Header, Kind
from gemel.wire.messages import WHOLE, Commitment, Entry, Policy
from gemel.wire.reasons import Reason
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Digest, Ppm

WRAPPING_BYTES = 64 * 1024  # on top of a frame: a message key for each of some 500 collectors


@dataclass(frozen=True, slots=True)
class Terms:
    """What every update of one round must fit."""

    trust: Trust
    round: int
    base: Digest
    policy: Policy

    def expected_update(self, senders: Container[Address]) -> Expected:
        """The demands on the signed header of an update."""
        return Expected(
            domain=self.trust.domain,
            task=self.trust.task,
            kind=Kind.UPDATE,
            senders=senders,
            max_body_bytes=self.policy.max_frame_bytes,
            round=self.round,
            base=self.base,
            policy=self.policy.digest,
        )


def read_commitment(message: Envelope, terms: Terms, agents: Container[Address]) -> Entry:
    """The entry that a commitment asks for.

    The outer envelope already holds; the update header inside must be signed by the same device, for this round.
    """
    commitment = Commitment.parse(message.body)
    header = Header.parse(commitment.update_header)
    terms.expected_update(agents).check(header)
    header.check_signature()
    if header.sender != message.header.sender:
        raise Refused(Reason.BAD_SIGNATURE, "the update is another device's")
    if not 0 < header.weight <= terms.policy.sealing.weight_cap:
        raise Refused(Reason.OVERWEIGHT, f"n_k {header.weight}, 1 to {terms.policy.sealing.weight_cap}")
    if commitment.transfer.length < HEADER_BYTES + header.body_length:
        raise Refused(Reason.WRONG_LENGTH, f"a transfer of {commitment.transfer.length} bytes holds no such frame")
    if commitment.transfer.length > terms.policy.max_frame_bytes + WRAPPING_BYTES:
        raise Refused(Reason.TOO_LARGE, f"{commitment.transfer.length} bytes")
    return Entry(header.sender, header.body_digest, header.weight, commitment.transfer)


def open_frame(wrapped: bytes, entry: Entry, terms: Terms, box_secret: bytes) -> bytes:
    """The frame (update header and sealed body) in a transfer, if it is the one that was committed to."""
    frame = boxes.unwrap(wrapped, box_secret)
    check_frame(frame, entry, terms)
    return frame


def check_frame(frame: bytes, entry: Entry, terms: Terms) -> Envelope:
    """Raises Refused unless `frame` is signed by the entry's device for this round and has the committed digest."""
    update = envelope.open_envelope(frame, terms.expected_update({entry.device}))
    if update.header.body_digest != entry.digest or update.header.weight != entry.weight:
        raise Refused(Reason.NO_COMMITMENT, "another update than the one committed to")
    return update


def weighed(entries: Iterable[Entry], policy: Policy, trust_scores: Mapping[Address, Ppm]) -> tuple[Entry, ...]:
    """Which of these updates are in their sum, by device, each with its level: `weighed` of the result is the result.

    Coordinator, validators and auditor compute it from the same entries, the policy whose digest is on chain, and the
    trust contract's scores as of the block that the round was opened in. r_k is what the policy's table grants a
    device, and at most its score. W_k is 1 until agents sign explanations that it could be computed from.
    """
    entries = sorted(entries, key=lambda entry: entry.device)
    contributors = [Contributor(e.device, e.weight, _trust(e.device, policy, trust_scores), WHOLE) for e in entries]
    levels = weigh(contributors, levels=policy.sealing.levels, max_share=policy.sealing.max_share)
    return tuple(replace(entry, level=levels[entry.device]) for entry in entries if entry.device in levels)


def _trust(device: Address, policy: Policy, trust_scores: Mapping[Address, Ppm]) -> Ppm:
    return min(policy.trust.get(device, WHOLE), trust_scores.get(device, WHOLE))


def listed(entry: Entry) -> Entry:
    """An entry of a sum as it stood on the roster, where every level is 1."""
    return replace(entry, level=1)


def weight_of(entries: Iterable[Entry]) -> int:
    """The sum of level · n_k: what a sum's mean is divided by."""
    return sum(entry.level * entry.weight for entry in entries)


def leaf_of(entry: Entry) -> bytes:
    """The Merkle leaf of (device, digest, weight, level)."""
    return merkle.leaf(entry.device, entry.digest, entry.weight, entry.level)


def root_of(entries: Iterable[Entry]) -> Digest:
    """The Merkle root over the entries' leaves."""
    return merkle.root([leaf_of(entry) for entry in entries])
