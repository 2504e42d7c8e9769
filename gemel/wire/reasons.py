"""Why something is refused. One word each: it stands on the receipt and as a metric's label."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Every reason for which a service refuses a message, a frame or a model."""

    # the header
    MALFORMED = "malformed"
    FOREIGN = "foreign"  # another chain, registry or task
    WRONG_KIND = "wrong_kind"
    BAD_SIGNATURE = "bad_signature"
    UNREGISTERED = "unregistered"  # the signer is nobody the chain, or the pinned set, knows in this role
    SUSPENDED = "suspended"  # its trust is below the floor, for now
    STALE_ROUND = "stale_round"
    WRONG_BASE = "wrong_base"
    WRONG_POLICY = "wrong_policy"
    WRONG_LENGTH = "wrong_length"
    DIGEST_MISMATCH = "digest_mismatch"
    # the update
    DUPLICATE = "duplicate"
    NO_COMMITMENT = "no_commitment"
    LATE = "late"
    TOO_LARGE = "too_large"
    NO_ROOM = "no_room"  # the receiver's spool is full
    TOO_FEW_OWNERS = "too_few_owners"
    OVERWEIGHT = "overweight"  # n_k above the policy's cap, or zero
    NO_WEIGHT = "no_weight"  # trust, or the policy's share, leaves it none in this sum
    PLAINTEXT = "plaintext"
    FORGED_SIZE = "forged_size"
    NO_LETTER = "no_letter"  # too few custodians hold the update's key, or what they hold differs
    NOT_ADDRESSED = "not_addressed"  # the wrapping is not for us, or does not open
    # the request for a round
    BY_SCHEDULE = "by_schedule"  # rounds run without being asked for
    RUNNING = "running"  # a round is under way
    TOO_SOON = "too_soon"  # after this agent's last request
    # the ballot
    CONTRADICTION = "contradiction"  # another than the one that the same validator signed before
    # the model
    NOT_ABOVE = "not_above"  # deployment number not above the one in use
    NO_QUORUM = "no_quorum"
    UNKNOWN_EPOCH = "unknown_epoch"  # who voted then is not known here, or not yet
    FROM_FUTURE = "from_future"  # signed for later than now: a clock is wrong, or somebody lies
    CONTRADICTED = "contradicted"  # a chain endpoint says otherwise
    MISSING = "missing"  # the bytes did not come within the deadline
    BROKEN_MODEL = "broken_model"  # bytes match, but are not a model of this task
    # the grant
    OUT_OF_SCOPE = "out_of_scope"  # not the owner's own machines' twins, or no consumer
    # the desired value
    VERSION_CONFLICT = "version_conflict"  # somebody else set the property since the version that was looked at
    UNKNOWN_PROPERTY = "unknown_property"  # nothing here can set it
    WRONG_UNIT = "wrong_unit"
    OUT_OF_RANGE = "out_of_range"
    RETAINED = "retained"  # a command that a broker kept is nobody's present will
