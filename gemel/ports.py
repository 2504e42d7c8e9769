"""The doors to the world: what the services need from a broker, a chain, a store, a disk and a clock.

Each port has one contract suite in tests/contract, which every adapter passes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import msgspec

from gemel.twin.state import Quality, Twin
from gemel.wire.types import Address, BoxKey, Count, Digest, Millis, Ppm, Signature

# --- Clock ------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time as an argument. The system's in services, one that jumps in tests."""

    def now_ms(self) -> Millis:
        """Milliseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never step back; for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


# --- Bus --------------------------------------------------------------------------------------


class BusMessage(msgspec.Struct, frozen=True):
    """One message as it came in."""

    topic: str
    payload: bytes
    retained: bool = False
    properties: Mapping[str, str] = {}  # MQTT 5 user properties
    response_topic: str | None = None  # where the sender wants its answer; as untrusted as the payload
    correlation: bytes | None = None  # what the answer must carry, so that the sender knows its question


Handler = Callable[[BusMessage], Awaitable[None]]


class Will(msgspec.Struct, frozen=True):
    """What the broker says for us when we vanish."""

    topic: str
    payload: bytes
    retain: bool = True
    delay_s: int = 5


class Bus(Protocol):
    """An MQTT 5 connection that reconnects by itself. Open it with `async with`.

    A handler runs one message at a time, unless its subscription asks for more; a QoS 1 message is acknowledged to
    the broker when its handler has returned, and not when it raised. An exception from a handler ends the bus's
    TaskGroup: hostile input is the handler's to refuse. Messages may come twice (QoS 1): handlers are idempotent.
    """

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = None,
        properties: Mapping[str, str] | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Returns when the broker has acknowledged (QoS 1). While the link is down it waits for it.

        Raises BusRefused for a reason code ≥ 0x80, BusUnavailable after the adapter's publish deadline.
        """
        ...

    async def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, concurrency: int = 1) -> None:
        """Hand every matching message to `handler`, now and after each reconnect. Raises BusRefused.

        At most `concurrency` run at a time, begun in the order of arrival: for handlers that wait for a commit which
        they share. Acknowledgements keep the order of arrival whatever the order in which handlers end.
        """
        ...

    async def unsubscribe(self, topic_filter: str) -> None:
        """End a subscription."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the link is up right now."""
        ...


# --- Blobs ------------------------------------------------------------------------------------


class Blobs(Protocol):
    """Bytes by digest: models, frames, sums, explanations."""

    async def put(self, data: bytes) -> Digest:
        """Store durably; storing again changes nothing."""
        ...

    async def get(self, digest: Digest) -> bytes:
        """The bytes; their digest is checked. Raises KeyError, or Refused(digest_mismatch) if they rotted."""
        ...

    async def has(self, digest: Digest) -> bool:
        """Whether they are here."""
        ...

    async def drop(self, digest: Digest) -> None:
        """Remove them; missing is fine."""
        ...


# --- Records ----------------------------------------------------------------------------------


class Records(Protocol):
    """A service's own small durable state: values by (kind, key), each change committed before it returns.

    What is acknowledged, deployed, opened or promised stands here, so a crash goes on from there.
    """

    async def put(self, kind: str, key: str, value: bytes) -> None:
        """Insert or replace."""
        ...

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        """Insert; False, and nothing changed, if there is one already."""
        ...

    async def get(self, kind: str, key: str) -> bytes | None:
        """The value, or None."""
        ...

    async def items(self, kind: str) -> Sequence[tuple[str, bytes]]:
        """All of a kind, by key."""
        ...

    async def drop(self, kind: str, key: str) -> None:
        """Remove; missing is fine."""
        ...


# --- Twins ------------------------------------------------------------------------------------


class TwinEntry(msgspec.Struct, frozen=True):
    """One line of the list of twins."""

    site: str
    asset: str
    version: Count
    received_ms: Millis


class TwinRevision(msgspec.Struct, frozen=True):
    """A twin as it stood when the registry received it.

    `revision` counts what the registry stored of this machine: it rises even where an agent counts its versions from
    the beginning again. `sequence` counts what the registry stored at all.
    """

    received_ms: Millis
    twin: Twin
    revision: Count = 0
    sequence: Count = 0


class Sample(msgspec.Struct, frozen=True):
    """One reading of one property, at its source time."""

    time_ms: Millis
    value: float | None
    quality: Quality


class Bucket(msgspec.Struct, frozen=True):
    """The usable readings (good or uncertain, with a value) of one property within one step."""

    time_ms: Millis  # where the step begins
    count: Count
    low: float
    mean: float
    high: float
    last: float


class AgentEntry(msgspec.Struct, frozen=True):
    """What an agent last said of itself: `online` or `offline`, and its status document.

    `sequence` (see TwinRevision) is that of its latest coming or going.
    """

    site: str
    name: str
    availability: str | None
    status: msgspec.Raw | None
    received_ms: Millis
    sequence: Count = 0


class TwinEvent(msgspec.Struct, frozen=True):
    """Something that happened to a machine, as its agent told it. `id` is the digest of its document."""

    id: Digest
    site: str
    asset: str
    received_ms: Millis
    document: msgspec.Raw
    sequence: Count = 0  # see TwinRevision


Change = TwinRevision | TwinEvent | AgentEntry


class TwinStore(Protocol):
    """Every twin as it stands, its revisions, its readings and its events. What `put` has returned from is committed.

    Calls that come together share one commit, so many callers at once are cheap. One process writes. Every method
    raises StoreUnavailable where the store cannot be reached, read or written.
    """

    async def put(self, twin: Twin, received_ms: Millis) -> bool:
        """Store a revision; False, and nothing changed, where it does not supersede what stands.

        `received_ms` never steps back within a machine: where it would, the latest stands. Raises Refused(too_large)
        for a new machine beyond the store's bound. The oldest revisions beyond the bound of a machine go.
        """
        ...

    async def twins(self) -> Sequence[TwinEntry]:
        """All twins, by site and asset."""
        ...

    async def twin(self, site: str, asset: str) -> TwinRevision | None:
        """The twin as it stands."""
        ...

    async def at_time(self, site: str, asset: str, time_ms: Millis) -> TwinRevision | None:
        """The twin as it stood at that time of our clock."""
        ...

    async def at_revision(self, site: str, asset: str, revision: Count) -> TwinRevision | None:
        """That revision, where it is kept."""
        ...

    async def history(
        self, site: str, asset: str, *, from_ms: Millis, to_ms: Millis, limit: int, after: Count = 0
    ) -> Sequence[TwinRevision]:
        """At most `limit` revisions received in [from_ms, to_ms) and numbered above `after`, by their numbers."""
        ...

    async def standing(self) -> tuple[Sequence[TwinRevision], Count]:
        """Every twin as it stands, in the order of their sequence, and the sequence after which `changes` goes on."""
        ...

    async def changes(self, after: Count, limit: int) -> Sequence[Change]:
        """What has happened since sequence `after`, in that order: at most `limit`, and at least one, for it waits.

        Twins that have changed, each as it stands; every event; agents that came or went, each as it is now.
        """
        ...

    async def put_late(self, site: str, asset: str, revisions: Sequence[tuple[Millis, Twin]]) -> None:
        """Add revisions to the past of a known twin, each with the time at which it arose. What stands stays.

        They are numbered as they come, and `at_time` and `history` find them by their times. The same again changes
        nothing. Raises KeyError for a machine that no twin is known of.
        """
        ...

    async def put_samples(self, site: str, asset: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Add readings, by property, to the history of a known twin; what stands does not change.

        The same reading again changes nothing. Raises KeyError for a machine that no twin is known of.
        """
        ...

    async def samples(
        self, site: str, asset: str, name: str, *, from_ms: Millis, to_ms: Millis, limit: int
    ) -> Sequence[Sample]:
        """At most `limit` readings of a property with source times in [from_ms, to_ms), oldest first."""
        ...

    async def buckets(
        self, site: str, asset: str, name: str, *, step_ms: int, from_ms: Millis, to_ms: Millis, limit: int
    ) -> Sequence[Bucket]:
        """The same, gathered in steps: whole minutes. Steps without a usable reading are left out."""
        ...

    async def put_agent(
        self,
        site: str,
        name: str,
        *,
        availability: str | None = None,
        status: bytes | None = None,
        received_ms: Millis,
    ) -> None:
        """Keep what an agent says of itself; what is None stays as it was. Raises as `put`."""
        ...

    async def agents(self) -> Sequence[AgentEntry]:
        """All agents, by site and name."""
        ...

    async def put_event(self, site: str, asset: str, document: bytes, received_ms: Millis) -> bool:
        """Store an event, a JSON document; False where it is known. `received_ms` never steps back, as in `put`."""
        ...

    async def events(
        self, *, site: str | None, asset: str | None, from_ms: Millis, to_ms: Millis, limit: int, after: Count = 0
    ) -> Sequence[TwinEvent]:
        """At most `limit` events received in [from_ms, to_ms) and of a sequence above `after`, oldest first.

        None means any.
        """
        ...

    async def tidy(self, now_ms: Millis) -> None:
        """Gather finished minutes and drop what is older, or more, than is to be kept. Call it now and then."""
        ...


class AssetRecord(msgspec.Struct, frozen=True):
    """What somebody declared about an asset. `revision` rises with every change."""

    site: str
    asset: str
    revision: Count
    document: msgspec.Raw


class AssetStore(Protocol):
    """Declared documents about assets: where they belong and what they are related to. Raises as TwinStore."""

    async def put_asset(self, site: str, asset: str, document: bytes, *, expected: Count | None) -> Count | None:
        """The new revision; None, and nothing changed, where `expected` (0: none yet) is not the one that stands.

        Raises Refused(too_large) for a new one beyond the store's bound.
        """
        ...

    async def asset(self, site: str, asset: str) -> AssetRecord | None:
        """One asset's document."""
        ...

    async def assets(self) -> Sequence[AssetRecord]:
        """All of them, by site and asset."""
        ...


class Access(msgspec.Struct, frozen=True):
    """Who read what, when. `sequence` counts from 1 without a gap."""

    sequence: Count
    time_ms: Millis
    reader: str
    what: str


class AccessRoot(msgspec.Struct, frozen=True):
    """The Merkle root over the entries first..last: whoever knows it can be shown that one of them is true."""

    first: Count
    last: Count
    sealed_ms: Millis
    root: Digest


class AccessStore(Protocol):
    """The log of reads, and the roots over it. Raises as TwinStore."""

    async def log_access(self, time_ms: Millis, reader: str, what: str) -> Access:
        """Add an entry; it is committed when this returns."""
        ...

    async def accesses(self, *, after: Count, limit: int) -> Sequence[Access]:
        """At most `limit` entries above `after` that are kept, in order."""
        ...

    async def put_access_root(self, root: AccessRoot) -> None:
        """Keep a root; it follows the one before without a gap."""
        ...

    async def access_roots(self, *, after: Count, limit: int) -> Sequence[AccessRoot]:
        """At most `limit` roots whose first entry is above `after`, oldest first."""
        ...

    async def access_state(self) -> tuple[Count, Count]:
        """(the last entry's number, the last entry under a root)."""
        ...

    async def drop_accesses(self, before_ms: Millis) -> None:
        """Forget the entries under roots that were sealed before; roots stay.

        Never a part of what one root covers: the rest could be proved no more.
        """
        ...


# --- Chain ------------------------------------------------------------------------------------


class RoundState(IntEnum):
    """The contract's enum: those states of a round that are decided on chain (contracts/src/RoundRegistry.sol)."""

    NONE = 0
    OPEN = 1
    LISTED = 2
    AGGREGATED = 3
    CONFIRMED = 4
    OPENED = 5
    MEASURED = 6  # a candidate stands, validators vote
    APPROVED = 7
    REJECTED = 8
    DEPLOYED = 9
    ROLLED_BACK = 10
    ABORTED = 11


class Role(IntEnum):
    """What a registered party may be."""

    NONE = 0
    AGENT = 1
    COORDINATOR = 2
    CUSTODIAN = 3
    VALIDATOR = 4
    LISTENER = 5


class PartyRecord(msgspec.Struct, frozen=True):
    """A line of the device registry."""

    address: Address
    owner: Address
    role: Role
    box: BoxKey
    active: bool


class TaskRecord(msgspec.Struct, frozen=True):
    """A task's gate and what is in use."""

    threshold: Ppm  # the median accuracy that a candidate must reach
    max_regression: Ppm  # how far below the model in use it may fall
    minimum_owners: Count
    quorum: Count  # validators that must approve
    last_round: Count
    deployment: Count  # number of the model in use; 0 before M0
    model: Digest


class RoundRecord(msgspec.Struct, frozen=True):
    """A round as the chain has it."""

    state: RoundState
    base: Digest
    policy: Digest
    roster_root: Digest
    updates_root: Digest
    sum_digest: Digest
    owners: Count
    weight: Count
    opened: Digest
    model: Digest
    explanation: Digest
    deployment: Count
    accuracy: Ppm
    baseline: Ppm


class ChainEvent(msgspec.Struct, frozen=True):
    """One contract event. `id` is deterministic: block hash and log index."""

    id: str
    name: str
    values: Mapping[str, object]  # digests and addresses as text, numbers as int
    block: Count
    block_hash: Digest
    transaction: Digest
    retracted: bool = False  # its block was reorganised away after it had been delivered


class Sent(msgspec.Struct, frozen=True):
    """A transaction that is in a block."""

    transaction: Digest
    block: Count
    gas: Count


class Chain(Protocol):
    """The contracts, as a service sees them. Writes are signed with the service's own key.

    Every method raises ChainUnavailable while no node answers; writes raise ChainReverted with the contract's
    custom error. `task` is always the task's text.
    """

    async def create_task(
        self, task: str, *, threshold: Ppm, max_regression: Ppm, minimum_owners: int, quorum: int
    ) -> Sent:
        """Operator: define a task and its gate."""
        ...

    async def register(self, party: PartyRecord) -> Sent:
        """Operator: enter a party into the device registry (and grant its role on the contracts)."""
        ...

    async def suspend(self, address: Address) -> Sent:
        """Operator: a party counts no more."""
        ...

    async def propose_genesis(self, task: str, *, model: Digest, policy: Digest) -> Sent:
        """Coordinator: round 0 with M0 as its candidate, straight to MEASURED; validators attest it as any other."""
        ...

    async def open_round(self, task: str, round_: int, *, base: Digest, policy: Digest) -> Sent:
        """Coordinator: only one above the last round, from the model in use, when the last round is final."""
        ...

    async def close_list(self, task: str, round_: int, *, root: Digest) -> Sent:
        """Coordinator: OPEN → LISTED."""
        ...

    async def propose_sum(
        self, task: str, round_: int, *, updates_root: Digest, sum_digest: Digest, owners: int, weight: int
    ) -> Sent:
        """Coordinator: LISTED → AGGREGATED. Refused below the task's minimum of owners."""
        ...

    async def attest_sum(self, task: str, round_: int, *, validator: Address, signature: Signature) -> Sent:
        """Anybody, with a validator's signature: at quorum AGGREGATED → CONFIRMED."""
        ...

    async def record_opening(self, task: str, round_: int, *, opened: Digest) -> Sent:
        """Custodian: CONFIRMED → OPENED, once."""
        ...

    async def propose_candidate(
        self, task: str, round_: int, *, model: Digest, explanation: Digest, accuracy: Ppm
    ) -> Sent:
        """Coordinator: OPENED → MEASURED, with what it measured itself (for the record; it has no vote)."""
        ...

    async def attest_model(
        self,
        task: str,
        round_: int,
        *,
        validator: Address,
        accuracy: Ppm,
        baseline: Ppm,
        approved: bool,
        signature: Signature,
    ) -> Sent:
        """Anybody, with a validator's signature: counts a vote, one for each validator."""
        ...

    async def finalise(self, task: str, round_: int) -> Sent:
        """Coordinator: MEASURED → APPROVED or REJECTED, once a quorum of validators has voted."""
        ...

    async def record_deployed(self, task: str, round_: int, *, agents: int) -> Sent:
        """Listener: APPROVED → DEPLOYED."""
        ...

    async def abort(self, task: str, round_: int, *, reason: str) -> Sent:
        """Coordinator: any state before a verdict → ABORTED."""
        ...

    async def task(self, task: str) -> TaskRecord:
        """The task's gate and the model in use."""
        ...

    async def round(self, task: str, round_: int) -> RoundRecord:
        """One round; state NONE if there is none."""
        ...

    async def party(self, address: Address) -> PartyRecord:
        """One party; role NONE if it is unknown."""
        ...

    async def parties(self) -> Sequence[PartyRecord]:
        """All registered parties, in order of registration."""
        ...

    @property
    def lag_blocks(self) -> int:
        """Blocks from the last whose events are finished to the head, as `events` saw it last."""
        ...

    def events(self, checkpoint: Path) -> AsyncIterator[ChainEvent]:
        """Every event of both contracts from the first block on: never missed, never repeated.

        The checkpoint (a SQLite file) moves on when the consumer asks for the next event, so an event whose effect
        was not finished comes again after a crash. Reorganised events come as `retracted`.
        """
        ...
