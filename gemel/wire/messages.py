"""The bodies behind signed headers. Frozen, versioned by the envelope, unknown fields refused.

JSON except for `Commitment`, whose parts have fixed lengths and are checked before any parser runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from gemel.errors import Malformed
from gemel.wire.attestations import Confirmation, SealedVote, Vote
from gemel.wire.chunks import Transfer
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.standing import Facts, StandingSignature
from gemel.wire.topics import TopicLevel
from gemel.wire.types import NO_DIGEST, Address, BoxKey, Count, Digest, Millis, Ppm, Signature, sha256

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
MOST_LEVELS = 4
Level = Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS)]
Share = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]  # in ppm, and some of it
WHOLE: Ppm = 1_000_000
SAFE_OWNERS = 3  # behind a sum: of two, each could subtract its own


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all JSON bodies."""

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker process as canonical JSON. msgspec leaves a default out where it is the very object that the
        # class names, which a pickled number is not: an equal policy would come out with another digest.
        return decode, (type(self), encode(self))


T = TypeVar("T", bound=msgspec.Struct)


def encode(body: msgspec.Struct) -> bytes:
    """A body as canonical JSON: keys sorted, so that equal bodies have equal digests."""
    return msgspec.json.encode(body, order="sorted")


def decode(kind: type[T], data: bytes) -> T:
    """The body in `data`. Raises Malformed with the first field that is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(kind.__name__, str(error)) from error


class SealingPolicy(Body, frozen=True, omit_defaults=True):
    """How updates are sealed: what the budget is computed from. What is not used does not change the digest."""

    scheme: Literal["bfv-packed", "one-time-keys", "ckks"]
    bits: Annotated[int, msgspec.Meta(ge=2, le=16)]  # of a quantised value
    clip: PositiveFloat  # values are clipped to ± clip before they are quantised
    contributors: Annotated[int, msgspec.Meta(ge=1, le=1000)]  # at most so many updates in a sum
    weight_cap: Positive  # n_k above it is refused; agents scale by n_k / weight_cap
    levels: Level = 1  # the highest integer that a ciphertext is multiplied by (gemel/learning/weighting.py); 1: none
    max_share: Share = WHOLE  # of the sum of level · n_k, at most so much is one device's


class TrainingPlan(Body, frozen=True, omit_defaults=True):
    """What every agent does with its own windows. What is not used does not change the digest."""

    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    learning_rate: PositiveFloat
    encrypted: bool = False  # a linear head, on ciphertexts: epochs are steps over all rows, batch_size is not used


class Policy(Body, frozen=True, omit_defaults=True):
    """What a round is held to; its digest is on chain before the round opens and stands in every header.

    What is not used does not change the digest.
    """

    sealing: SealingPolicy
    training: TrainingPlan
    minimum_owners: Annotated[int, msgspec.Meta(ge=2, le=1000)]  # below SAFE_OWNERS only with the exception
    max_frame_bytes: Positive
    trust: dict[Address, Ppm] = {}  # r_k; a device that is not named here has all of it
    two_owners_exception: Annotated[str, msgspec.Meta(max_length=500)] = ""  # who allowed it, and why

    def __post_init__(self) -> None:
        if bool(self.two_owners_exception.strip()) != (self.minimum_owners < SAFE_OWNERS):
            raise ValueError(
                f"minimum_owners: {SAFE_OWNERS} or more; 2 if, and only if, two_owners_exception says who allowed "
                "it, and why"
            )
        if self.training.encrypted and self.sealing.scheme != "bfv-packed":
            raise ValueError(
                "training.encrypted: only under bfv-packed, whose updates the custodian can seal masked; "
                f"not {self.sealing.scheme}"
            )
        if self.two_owners_exception and self.sealing.scheme == "one-time-keys":
            raise ValueError("two_owners_exception: not under one-time-keys, whose argument rests on three members")

    @property
    def exception(self) -> str:
        """What this policy gives up of what sealing promises, and by whose word; empty where it is nothing."""
        if self.minimum_owners >= SAFE_OWNERS:
            return ""
        return (
            "EXCEPTION: sums of two owners are opened, and each of the two can subtract its own update and read the "
            f"other's. Allowed: {self.two_owners_exception}"
        )

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON."""
        return sha256(encode(self))


class Context(Body, frozen=True, omit_defaults=True):
    """The custodian's word (bfv-packed): this is the public sealing context of the header's round."""

    context: Transfer
    training: Transfer | None = None  # where the policy says training.encrypted: the public context for that


class KeyContext(Body, frozen=True):
    """A custodian's word (one-time keys): for the header's round it opens letters with the secret behind this key.

    From the keys of all custodians everybody puts the round's context together (gemel/exchange/round_contexts.py).
    """

    box: BoxKey


class Collector(Body, frozen=True):
    """A party that frames are wrapped for."""

    address: Address
    box: BoxKey


class Invitation(Body, frozen=True):
    """A round begins. The header names round, base and policy digest."""

    policy: Policy
    context: Transfer  # must equal what the custodians themselves announced
    data_until_ms: Millis  # source time up to which windows count, so that a seed replays a round
    seed: Count
    commit_until_ms: Millis
    reveal_until_ms: Millis


class Commitment(msgspec.Struct, frozen=True):
    """What an agent promises before it can see anybody else's frame.

    Body bytes: the signed UPDATE header of the frame (281) ‖ transfer digest 32 ‖ transfer length u64.
    The transfer is the frame (header and sealed body), wrapped for the collectors.
    """

    update_header: bytes
    transfer: Transfer

    SIZE = HEADER_BYTES + 32 + 8

    def pack(self) -> bytes:
        """The body's bytes."""
        return self.update_header + bytes.fromhex(self.transfer.digest) + self.transfer.length.to_bytes(8, "big")

    @classmethod
    def parse(cls, body: bytes) -> Commitment:
        """Raises Malformed unless the length is exact."""
        if len(body) != cls.SIZE:
            raise Malformed("commitment", f"{len(body)} bytes, {cls.SIZE} needed")
        return cls(
            body[:HEADER_BYTES],
            Transfer(
                body[HEADER_BYTES : HEADER_BYTES + 32].hex(),
                int.from_bytes(body[HEADER_BYTES + 32 :], "big"),
            ),
        )


class Entry(Body, frozen=True):
    """One update of a round: a Merkle leaf (device, digest, weight, level), and where its frame is.

    On the roster every level is 1: what an update counts is decided when it is known who is in the sum.
    """

    device: Address
    digest: Digest  # of the sealed body, as in the signed UPDATE header
    weight: Positive
    transfer: Transfer
    level: Level = 1  # what the ciphertext is multiplied by in the sum


class Roster(Body, frozen=True):
    """The closed list: whoever stands in it may now reveal. Its root is on chain."""

    entries: tuple[Entry, ...]
    root: Digest


class Receipt(Body, frozen=True):
    """What became of a commitment or a frame. Only for a listed frame does it name the transfer.

    Whoever says nonsense in another's name has the coordinator send that other a refusal: it must not act on it.
    That an update is included says `proof`, not the coordinator: it leads to the root that validators confirmed.
    """

    outcome: Literal["accepted", "refused", "included"]
    reason: str = ""
    detail: str = ""
    transfer: Digest = NO_DIGEST
    level: Annotated[int, msgspec.Meta(ge=0, le=MOST_LEVELS)] = 0  # included: at this level
    proof: tuple[Digest, ...] = ()  # included: the way from its Merkle leaf to the updates' root


class LetterReceipt(Body, frozen=True):
    """What became of an agent's letter. A kept one is named by the digest of the body that it is for.

    `parts` are the digests of the parts that were in it, in their order: of two custodians' receipts, those of the
    part that both hold must be equal.
    """

    agent: Address
    outcome: Literal["accepted", "refused"]
    reason: str = ""
    detail: str = ""
    update: Digest = NO_DIGEST
    parts: tuple[Digest, ...] = ()


class TrainingRequest(Body, frozen=True):
    """Training on encrypted data: masked weights to refresh after this step, or, after the last, to seal."""

    step: Count  # from 0; the number of steps stands for the release
    transfer: Transfer


class TrainingAnswer(Body, frozen=True):
    """What became of a request, named by its transfer: where the answer is, or why there is none."""

    request: Digest
    outcome: Literal["accepted", "refused"]
    reason: str = ""
    detail: str = ""
    transfer: Transfer | None = None


class Aggregate(Body, frozen=True):
    """Which listed updates are in the sum. The sum itself follows as a transfer (to the custodian)."""

    entries: tuple[Entry, ...]
    updates_root: Digest
    sum: Transfer  # its digest is the sum digest that validators confirm on chain
    weight: Positive  # the sum of level · n_k


class Opened(Body, frozen=True):
    """A custodian has opened a confirmed sum; the transfer is wrapped for collectors only.

    Under one-time keys there is none: collectors open the sum themselves, with the totals of its keys.
    """

    opened: Digest  # of the opened bytes, as recorded on chain
    transfer: Transfer | None = None


class Candidate(Body, frozen=True):
    """Wrapped M0 for the validators to measure (round 0 only: later candidates everybody computes)."""

    model: Digest
    transfer: Transfer


class ConfirmedSum(Body, frozen=True):
    """The sum behind a model, as a quorum of validators confirmed it: what SumAttestation says, and who signed it."""

    updates_root: Digest
    sum: Digest
    owners: Count
    weight: Count
    confirmations: tuple[Confirmation, ...]


class Restored(Body, frozen=True):
    """That the chain went back to an older model: a quorum of the electorate says that it stands."""

    facts: Facts
    signatures: tuple[StandingSignature, ...]


class Deployment(Body, frozen=True, omit_defaults=True):
    """What the chain approved: the header's round. Valid only with a quorum of the stake of `epoch`.

    That is votes on the model or, where the chain went back to one that was in use before, standings that name it.
    """

    deployment: Positive
    parent: Digest  # of a restored model: the one that was given up
    model: Digest
    epoch: Count  # whose electorate voted
    votes: tuple[Vote, ...]
    accuracy: Ppm  # the stake's median, as the contract computed it
    transaction: Digest
    block: Count
    confirmed: ConfirmedSum | None = None  # M0 is no sum's
    canaries: tuple[Address, ...] | None = None  # these first; None: everybody
    restored: Restored | None = None


class ModelOffer(Body, frozen=True):
    """Answer to a fetch of a model by digest: the transfer is wrapped for every registered party."""

    model: Digest
    transfer: Transfer


class Installed(Body, frozen=True):
    """An agent runs a deployment, or says why it does not; a canary says later how the model does."""

    deployment: Count
    model: Digest
    outcome: Literal["installed", "refused", "healthy", "unhealthy"]
    reason: str = ""


class Fetch(Body, frozen=True):
    """«Send me these chunks of this transfer» (half-open ranges), or, without a transfer, «offer me this model»."""

    transfer: Digest | None = None
    missing: tuple[tuple[Count, Count], ...] = ()
    model: Digest | None = None


class Evidence(Body, frozen=True):
    """One drift that an agent saw: an input's mean in its unit, or the share of a head's answers that were wrong."""

    stream: str
    since_ms: Millis  # source time
    before: float
    after: float
    strength: Annotated[float, msgspec.Meta(ge=0)]  # in standard deviations of before, for an error in shares


class RoundRequest(Body, frozen=True):
    """An agent's machine is no longer what the model in use (the header's base) has learnt."""

    reason: Literal["input_drift", "error_drift"]
    evidence: Annotated[tuple[Evidence, ...], msgspec.Meta(min_length=1, max_length=64)]
    examples: Count  # labelled windows that the agent has had since


class RoundAnswer(Body, frozen=True):
    """What became of a request, named by the time at which it was issued. A round follows when enough have asked."""

    issued_at_ms: Millis
    outcome: Literal["accepted", "refused"]
    reason: str = ""
    detail: str = ""


class SignedSum(Body, frozen=True, tag="sum"):
    """A validator recomputed the sum of the header's round."""

    confirmation: Confirmation


class SignedSeal(Body, frozen=True, tag="seal"):
    """A validator has measured the candidate of the header's round, and shows the result when all have."""

    sealed: SealedVote


class SignedVote(Body, frozen=True, tag="vote"):
    """What the validator measured, and whether it approves."""

    vote: Vote


class DeviceResult(Body, frozen=True):
    """What a round says of one device: 0 for whoever was not admitted, and its share of the round's reward."""

    device: Address
    outcome: Ppm
    share: Ppm


class SignedResults(Body, frozen=True, tag="results"):
    """What the header's round says of its devices, for the trust contract."""

    results: tuple[DeviceResult, ...]
    confirmation: Confirmation


Ballot = SignedSum | SignedSeal | SignedVote | SignedResults  # validator → coordinator, who hands them in together


def decode_ballot(data: bytes) -> Ballot:
    """Any of the four. Raises Malformed."""
    try:
        found: Ballot = msgspec.json.decode(data, type=Ballot)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("Ballot", str(error)) from error
    return found


class Standing(Body, frozen=True):
    """A validator says what the chain says (wire/standing.py); the electorate is the one that `facts` names."""

    facts: Facts
    electorate: Electorate
    signature: StandingSignature


class Handover(Body, frozen=True):
    """A quorum of the electorate before says that this one is in force."""

    facts: Facts
    electorate: Electorate
    signatures: tuple[StandingSignature, ...]


class HealthAlert(Body, frozen=True):
    """An agent's signed word that a twin raised an alert: opens an order (contracts/src/Maintenance.sol)."""

    site: TopicLevel
    asset: TopicLevel
    alert: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]  # the occurrence's id
    time_s: Count
    report: Digest  # of the alert's event
    signature: Signature
