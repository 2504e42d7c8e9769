"""The round machine: `step(round, event, now_ms) → (round, effects)`. Pure; this table is its specification.

    state       event               next         effects
    OPEN        CommitmentHeld      OPEN         — ; AnchorList once everybody expected has committed
                Tick (deadline)     OPEN         AnchorList with enough owners, else ABORTED: AnchorAbort
                ListAnchored        LISTED       PublishRoster
    LISTED      RosterPublished     COLLECTING   CollectFrames
    COLLECTING  FrameTaken          COLLECTING   — ; AddFrames once every listed frame has come or been refused
                FrameRefused        COLLECTING   the same
                Tick (deadline)     COLLECTING   AddFrames with enough owners, else ABORTED: AnchorAbort
                SumAdded            COLLECTING   AnchorSum
                SumAnchored         AGGREGATED   PublishAggregate, AwaitConfirmation
    AGGREGATED  SumConfirmed        CONFIRMED    AwaitOpening
    CONFIRMED   SumOpened           OPENED       Measure
    OPENED      CandidateProposed   MEASURED     AwaitVerdict
    MEASURED    Approved            APPROVED     OfferModel
                Rejected            REJECTED     CleanUp
    APPROVED    ModelOffered        DEPLOYING    AwaitDeployed
    DEPLOYING   AllDeployed         DEPLOYED     CleanUp
                WentBack            ROLLED_BACK  CleanUp
    any state before a verdict:  Failed → ABORTED: AnchorAbort, CleanUp;  Tick after decide_until → the same

Events that a state does not name raise IllegalEvent and change nothing, except Tick, which is always legal.
Effects are idempotent: after a crash the driver performs `pending(round)` again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from gemel.errors import IllegalEvent
from gemel.wire.chunks import Transfer
from gemel.wire.messages import Entry
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_DIGEST, Address, Digest


class State(StrEnum):
    """States of a round; those that are decided on chain bear the contract's names."""

    OPEN = "open"
    LISTED = "listed"
    COLLECTING = "collecting"
    AGGREGATED = "aggregated"
    CONFIRMED = "confirmed"
    OPENED = "opened"
    MEASURED = "measured"
    APPROVED = "approved"
    REJECTED = "rejected"
    DEPLOYING = "deploying"
    DEPLOYED = "deployed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


FINAL = frozenset({State.REJECTED, State.DEPLOYED, State.ROLLED_BACK, State.ABORTED})
BEFORE_VERDICT = frozenset(
    {
        State.OPEN,
        State.LISTED,
        State.COLLECTING,
        State.AGGREGATED,
        State.CONFIRMED,
        State.OPENED,
        State.MEASURED,
    }
)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the coordinator knows of a round; stored before any effect is performed."""

    number: int
    state: State
    base: Digest
    policy: Digest
    context: Transfer | None = None  # the public sealing context
    suspended: frozenset[Address] = frozenset()  # devices whose trust is below the floor: not in this round
    expected: int = 0  # commitments after which the list closes early
    minimum_owners: int = 1
    commit_until_ms: int = 0
    reveal_until_ms: int = 0
    decide_until_ms: int = 0
    closing: bool = False  # the list, or the collection, is being closed: nothing joins it any more
    entries: dict[Address, Entry] = {}
    owners: dict[Address, Address] = {}
    taken: frozenset[Address] = frozenset()
    refused: dict[Address, str] = {}
    updates_root: Digest = NO_DIGEST
    sum: Transfer | None = None
    opened: Digest = NO_DIGEST
    model: Digest = NO_DIGEST
    deployment: int = 0
    accuracy: int = 0  # ppm, as the contract decided
    baseline: int = 0
    reason: str = ""  # why it was rejected or aborted
    entered_ms: dict[State, int] = {}

    @property
    def included(self) -> tuple[Entry, ...]:
        """Entries whose frames are in the sum, by device."""
        return tuple(self.entries[d] for d in sorted(self.taken))

    def distinct_owners(self, devices: frozenset[Address]) -> int:
        """How many owners stand behind these devices."""
        return len({self.owners[d] for d in devices})


# --- events -------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Something that happened."""


class Tick(Event, frozen=True):
    """Time has passed."""


class CommitmentHeld(Event, frozen=True):
    """A registered device's commitment holds."""

    entry: Entry
    owner: Address


class ListAnchored(Event, frozen=True):
    """The roster's root is on chain."""


class RosterPublished(Event, frozen=True):
    """Agents may reveal."""


class FrameTaken(Event, frozen=True):
    """A frame came whole, and holds."""

    device: Address


class FrameRefused(Event, frozen=True):
    """A listed frame did not come, or does not hold."""

    device: Address
    reason: str


class SumAdded(Event, frozen=True):
    """The ciphertexts are added: of `included`, each at its level. Whoever else was taken counts for nothing."""

    included: tuple[Entry, ...]
    updates_root: Digest
    sum: Transfer


class SumAnchored(Event, frozen=True):
    """Root and sum digest are on chain."""


class SumConfirmed(Event, frozen=True):
    """A quorum of validators recomputed the sum."""


class SumOpened(Event, frozen=True):
    """The custodian opened it."""

    opened: Digest


class CandidateProposed(Event, frozen=True):
    """The candidate is on chain."""

    model: Digest


class Approved(Event, frozen=True):
    """SC(M) == true."""

    deployment: int
    accuracy: int
    baseline: int


class Rejected(Event, frozen=True):
    """The contract refused the candidate."""

    accuracy: int
    baseline: int
    reason: str


class ModelOffered(Event, frozen=True):
    """Agents can fetch the model."""


class AllDeployed(Event, frozen=True):
    """The chain records the deployment."""


class WentBack(Event, frozen=True):
    """The chain records a rollback."""


class Failed(Event, frozen=True):
    """An effect cannot be done."""

    reason: str


# --- effects ------------------------------------------------------------------------------------


class Effect(msgspec.Struct, frozen=True):
    """Something the driver does; all it needs stands in the Round."""


class AnchorList(Effect, frozen=True):
    """Put the roster's root on chain → ListAnchored."""


class PublishRoster(Effect, frozen=True):
    """Tell the agents → RosterPublished."""


class CollectFrames(Effect, frozen=True):
    """Pull every listed frame → FrameTaken or FrameRefused for each."""


class AddFrames(Effect, frozen=True):
    """Add ciphertexts → SumAdded."""


class AnchorSum(Effect, frozen=True):
    """Put root and sum digest on chain → SumAnchored."""


class PublishAggregate(Effect, frozen=True):
    """Tell validators and custodian which frames are in which sum."""


class AwaitConfirmation(Effect, frozen=True):
    """→ SumConfirmed."""


class AwaitOpening(Effect, frozen=True):
    """→ SumOpened."""


class Measure(Effect, frozen=True):
    """Compute the candidate, measure, explain, propose → CandidateProposed."""


class AwaitVerdict(Effect, frozen=True):
    """Wait for votes, finalise → Approved or Rejected."""


class OfferModel(Effect, frozen=True):
    """Hold the model ready → ModelOffered."""


class AwaitDeployed(Effect, frozen=True):
    """→ AllDeployed or WentBack."""


class AnchorAbort(Effect, frozen=True):
    """Put the end of the round on chain."""


class CleanUp(Effect, frozen=True):
    """Drop spools and offers of the round."""


# --- transitions --------------------------------------------------------------------------------

Step = tuple[Round, tuple[Effect, ...]]


def _enter(round_: Round, state: State, now_ms: int, **changes: Any) -> Round:
    return replace(round_, state=state, closing=False, entered_ms={**round_.entered_ms, state: now_ms}, **changes)


def _abort(round_: Round, reason: str, now_ms: int) -> Step:
    return _enter(round_, State.ABORTED, now_ms, reason=reason), (AnchorAbort(), CleanUp())


def _committed(round_: Round, event: CommitmentHeld, now_ms: int) -> Step:
    if round_.closing or event.entry.device in round_.entries:
        raise IllegalEvent(round_.state, "commitment after the list closed, or a second one")
    entries = {**round_.entries, event.entry.device: event.entry}
    owners = {**round_.owners, event.entry.device: event.owner}
    round_ = replace(round_, entries=entries, owners=owners)
    return _close_list(round_, now_ms) if len(entries) >= round_.expected else (round_, ())


def _close_list(round_: Round, now_ms: int) -> Step:
    if round_.distinct_owners(frozenset(round_.entries)) < round_.minimum_owners:
        return _abort(round_, "too few owners committed", now_ms)
    return replace(round_, closing=True), (AnchorList(),)


def _collecting(round_: Round, _event: RosterPublished, now_ms: int) -> Step:
    """The time to reveal counts from here: a silent device holds a round whose list closed early no longer."""
    reveal_until_ms = min(round_.reveal_until_ms, now_ms + round_.reveal_until_ms - round_.commit_until_ms)
    return _enter(round_, State.COLLECTING, now_ms, reveal_until_ms=reveal_until_ms), (CollectFrames(),)


def _frame(round_: Round, event: FrameTaken | FrameRefused, now_ms: int) -> Step:
    if round_.closing or event.device not in round_.entries:
        return round_, ()  # late, or no longer of interest: the collection is closed
    if isinstance(event, FrameTaken):
        round_ = replace(round_, taken=round_.taken | {event.device})
    elif event.device not in round_.taken:
        round_ = replace(round_, refused={**round_.refused, event.device: event.reason})
    done = len(round_.taken | round_.refused.keys()) == len(round_.entries)
    return _close_collection(round_, now_ms) if done else (round_, ())


def _close_collection(round_: Round, now_ms: int) -> Step:
    if round_.distinct_owners(round_.taken) < round_.minimum_owners:
        return _abort(round_, "too few owners revealed", now_ms)
    return replace(round_, closing=True), (AddFrames(),)


def _tick(round_: Round, now_ms: int) -> Step:
    if round_.state == State.OPEN and not round_.closing and now_ms >= round_.commit_until_ms:
        return _close_list(round_, now_ms)
    if round_.state == State.COLLECTING and not round_.closing and now_ms >= round_.reveal_until_ms:
        return _close_collection(round_, now_ms)
    if round_.state in BEFORE_VERDICT and now_ms >= round_.decide_until_ms:
        return _abort(round_, f"no verdict in time: still {round_.state}", now_ms)
    return round_, ()


def _moves(state: State, *effects: Effect, fields: tuple[str, ...] = ()) -> Callable[[Round, Any, int], Step]:
    def transition(round_: Round, event: Any, now_ms: int) -> Step:
        return _enter(round_, state, now_ms, **{f: getattr(event, f) for f in fields}), effects

    return transition


def _added(round_: Round, event: SumAdded, _now_ms: int) -> Step:
    entries = {entry.device: entry for entry in event.included}
    round_ = replace(
        round_,
        entries={**round_.entries, **entries},
        taken=frozenset(entries),
        refused={**round_.refused, **dict.fromkeys(round_.taken - entries.keys(), Reason.NO_WEIGHT)},
        updates_root=event.updates_root,
        sum=event.sum,
    )
    return round_, (AnchorSum(),)


TABLE: dict[tuple[State, type[Event]], Callable[[Round, Any, int], Step]] = {
    (State.OPEN, CommitmentHeld): _committed,
    (State.OPEN, ListAnchored): _moves(State.LISTED, PublishRoster()),
    (State.LISTED, RosterPublished): _collecting,
    (State.COLLECTING, FrameTaken): _frame,
    (State.COLLECTING, FrameRefused): _frame,
    (State.COLLECTING, SumAdded): _added,
    (State.COLLECTING, SumAnchored): _moves(State.AGGREGATED, PublishAggregate(), AwaitConfirmation()),
    (State.AGGREGATED, SumConfirmed): _moves(State.CONFIRMED, AwaitOpening()),
    (State.CONFIRMED, SumOpened): _moves(State.OPENED, Measure(), fields=("opened",)),
    (State.OPENED, CandidateProposed): _moves(State.MEASURED, AwaitVerdict(), fields=("model",)),
    (State.MEASURED, Approved): _moves(State.APPROVED, OfferModel(), fields=("deployment", "accuracy", "baseline")),
    (State.MEASURED, Rejected): _moves(State.REJECTED, CleanUp(), fields=("accuracy", "baseline", "reason")),
    (State.APPROVED, ModelOffered): _moves(State.DEPLOYING, AwaitDeployed()),
    (State.DEPLOYING, AllDeployed): _moves(State.DEPLOYED, CleanUp()),
    (State.DEPLOYING, WentBack): _moves(State.ROLLED_BACK, CleanUp()),
}


def step(round_: Round, event: Event, now_ms: int) -> Step:
    """One transition. Raises IllegalEvent where the table has none; nothing has changed then."""
    if isinstance(event, Tick):
        return _tick(round_, now_ms)
    if isinstance(event, Failed) and round_.state in BEFORE_VERDICT:
        return _abort(round_, event.reason, now_ms)
    transition = TABLE.get((round_.state, type(event)))
    if transition is None:
        raise IllegalEvent(round_.state, type(event).__name__)
    return transition(round_, event, now_ms)


_PENDING: dict[State, tuple[Effect, ...]] = {
    State.LISTED: (PublishRoster(),),
    State.COLLECTING: (CollectFrames(),),
    State.AGGREGATED: (PublishAggregate(), AwaitConfirmation()),
    State.CONFIRMED: (AwaitOpening(),),
    State.OPENED: (Measure(),),
    State.MEASURED: (AwaitVerdict(),),
    State.APPROVED: (OfferModel(),),
    State.DEPLOYING: (AwaitDeployed(),),
    State.ABORTED: (AnchorAbort(), CleanUp()),
    State.REJECTED: (CleanUp(),),
    State.DEPLOYED: (CleanUp(),),
    State.ROLLED_BACK: (CleanUp(),),
}


def pending(round_: Round) -> tuple[Effect, ...]:
    """What is to be done (again) when a stored round is taken up after a crash."""
    if round_.state == State.OPEN and round_.closing:
        return (AnchorList(),)
    if round_.state == State.COLLECTING and round_.closing:
        return (AddFrames(),) if round_.sum is None else (AnchorSum(),)
    return _PENDING.get(round_.state, ())


def genesis(model: Digest, policy: Digest, now_ms: int, decide_until_ms: int) -> Round:
    """Round 0: M0 needs no updates, only votes."""
    return Round(
        number=0,
        state=State.MEASURED,
        base=NO_DIGEST,
        policy=policy,
        model=model,
        decide_until_ms=decide_until_ms,
        entered_ms={State.MEASURED: now_ms},
    )
