"""report.json: its form, and what every figure means.

Units stand in the names: `_share` 0..1, `_nats` mean cross-entropy, `_s` seconds, `_bytes`; `gas` is gas. "The
report's cycles" are those that neither a gateway nor the coordinator nor a validator has seen. None: not known, and
`missing` says why. Digests are SHA-256 in hex, transactions hashes in hex.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["deployed", "refused", "aborted", "rolled_back", "unfinished"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts."""


class Score(Part, frozen=True):
    """A model on the report's cycles; accuracy is the mean over the heads."""

    loss_nats: float
    accuracy_share: float
    head_accuracy_share: dict[str, float]


class Run(Part, frozen=True):
    """What ran. `duration_s`: from the first process to the last round's end."""

    seed: int
    machine: str
    duration_s: float
    agents: tuple[str, ...]
    report_cycles: int
    parameters: int
    epochs_per_round: int


class Gate(Part, frozen=True):
    """What the contract demanded of a candidate: medians of the validators' own measurements are held to it."""

    threshold_share: float
    max_regression_share: float
    minimum_owners: int
    quorum_share: float  # of the elected stake


class Verdict(Part, frozen=True):
    """The head line in figures. `federated` is the model in use at the end."""

    deployed: int
    refused: int
    other: int  # aborted, rolled back, unfinished
    federated: Score | None
    local_mean_accuracy_share: float | None
    local_best_accuracy_share: float | None
    central_accuracy_share: float | None


class Agent(Part, frozen=True):
    """An agent in a round. All but `weight`, `included` and `refusal` is its own word.

    `samples` are the windows it trained on; `weight` is n_k as it stands in the signed entry. Loss and accuracy are
    of its last epoch on its own windows. `part_share` is its share of the sum of n_k · change over the agents in the
    round's sum.
    """

    name: str
    samples: int | None
    weight: int | None
    loss_nats: float | None
    accuracy_share: float | None
    mean_absolute_change: float | None
    part_share: float | None
    frame_bytes: int | None
    included: bool
    refusal: str
    participation: str


class Vote(Part, frozen=True):
    """A validator's attestation of a candidate, on its own reference cycles."""

    validator: str
    accuracy_share: float
    baseline_share: float
    approved: bool


class Transaction(Part, frozen=True):
    """A transaction of a round; `function` is the contract's."""

    function: str
    hash: str
    block: int
    gas: int


class Sizes(Part, frozen=True):
    """Bytes of a round. Plain is the same parameters as float32, one update."""

    updates: int
    plain_update_bytes: int
    sealed_update_bytes: float | None  # signed header and ciphertexts, mean over the updates
    wrapped_update_bytes: float | None  # the same, wrapped for coordinator and validators, as it travels
    sum_bytes: int | None
    context_bytes: int | None  # public sealing context, sent once to every agent


class Round(Part, frozen=True):
    """One round. `base` is the model in use when it began; round 0 brings M0 and has none."""

    number: int
    outcome: Outcome
    reason: str
    sabotage: str
    deployment: int | None
    model: str | None
    base: str | None
    candidate: Score | None
    in_use: Score | None  # when the round began
    contract_accuracy_share: float | None
    contract_baseline_share: float | None
    votes: tuple[Vote, ...]
    mean_absolute_change: float | None  # of a weight, candidate against base
    explanation_drift: float | None  # 0 looks at the same, 1 at nothing in common; coordinator's measurement
    agents: tuple[Agent, ...]
    phases_s: dict[str, float]  # state → time until the next one was entered
    roster_root: str | None
    updates_root: str | None
    sum_digest: str | None
    explanation: str | None
    transaction: str | None  # that holds the verdict
    block: int | None
    gas: int | None  # of all the round's transactions
    transactions: tuple[Transaction, ...]
    sizes: Sizes | None


class Weighed(Part, frozen=True):
    """A group of readings (one sensor in one part of the window) and what it weighed in one prediction.

    `lime` is the change of the class's probability per standard deviation of the group, `gradient` is
    gradient × input in logits: compare orders and signs, not sizes.
    """

    group: str
    lime: float
    gradient: float


class HeadExplanation(Part, frozen=True):
    """One prediction of the final model. Groups by the weight that LIME gives them, all of them."""

    head: str
    predicted: str
    truth: str
    confidence_share: float
    groups: tuple[Weighed, ...]


class Explanation(Part, frozen=True):
    """Why the final model says what it says of one report cycle, drawn by the run's seed."""

    model: str
    window: int  # number of the cycle within the report's cycles
    rank_agreement: dict[str, float]  # head → Spearman's correlation of |LIME| and |gradient × input| over the groups
    heads: tuple[HeadExplanation, ...]


class Local(Part, frozen=True):
    """A gateway's own model."""

    agent: str
    windows: int
    score: Score


class Comparison(Part, frozen=True):
    """The same training budget without federation, measured on the report's cycles."""

    rounds: int
    central: Score
    central_epoch: int
    central_epochs: int
    locals: tuple[Local, ...]
    local_mean: Score
    best_local: str
    federated: Score | None


class Bin(Part, frozen=True):
    """Predictions with a confidence in [low, high)."""

    low_share: float
    high_share: float
    predictions: int
    mean_confidence_share: float | None
    accuracy_share: float | None


class HeadCalibration(Part, frozen=True):
    """A head's mean confidence beside its accuracy."""

    head: str
    mean_confidence_share: float
    accuracy_share: float


class Calibration(Part, frozen=True):
    """The final model's confidence against how often it is right, on the report's cycles.

    `expected_error_share`: |confidence - accuracy| of the bins, weighted by their predictions (Naeini et al. 2015).
    """

    mean_confidence_share: float
    accuracy_share: float
    expected_error_share: float
    heads: tuple[HeadCalibration, ...]
    bins: tuple[Bin, ...]


class Report(Part, frozen=True):
    """report.json."""

    format: Literal["gemel-report/1"]
    run: Run
    gate: Gate | None
    verdict: Verdict
    rounds: tuple[Round, ...]
    comparison: Comparison | None
    explanation: Explanation | None
    calibration: Calibration | None
    missing: tuple[str, ...]


def encode(report: Report) -> bytes:
    """The file's bytes."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def decode(data: bytes) -> Report:
    """Read a report.json. Raises msgspec.ValidationError where it is not of this form."""
    return msgspec.json.decode(data, type=Report)
