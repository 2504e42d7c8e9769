"""The chain listener's deployments, killed after each of their effects: nothing is lost, nothing is decided twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from chain_listener.deploying import Deploying
from chain_listener.staging import StagingPolicy, choose_canaries
from gemel.adapters.clock import FakeClock
from gemel.errors import BusUnavailable, ChainReverted, Refused
from gemel.exchange.chain_watch import Parties
from gemel.exchange.deployment_log import DeploymentLog
from gemel.exchange.post import Post
from gemel.ports import ChainEvent, LineageRecord, PartyRecord, Role, RoundRecord, RoundState
from gemel.wire.attestations import Vote
from gemel.wire.canary_report import CanaryReport, check_canary_report
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Deployment, Installed, decode, encode
from gemel.wire.standing import Facts
from gemel.wire.types import NO_DIGEST, Digest
from tests.support.parties import LISTENER, TRUST, VALIDATORS, identity

ROUND, NUMBER = 3, 4
PARENT, MODEL = "aa" * 32, "bb" * 32
FLEET = tuple(identity(100 + n) for n in range(4))
VOTES = tuple(Vote(v.address, 900_000, 850_000, n < 2, f"{n}" * 130) for n, v in enumerate(VALIDATORS))
POLICY = StagingPolicy(canary_share=0.5, canary_patience_s=60, patience_s=60)
WAIT_S = 20.0


class KilledError(Exception):
    """kill -9."""


@dataclass
class World:
    """What goes on while the listener dies and comes back: its records, the broker and the chain."""

    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    kill_at: int = 0  # the effect before which it dies, once; 0: it lives
    effects: int = 0
    state: RoundState = RoundState.APPROVED
    deployment: int = NUMBER
    in_use: Digest = MODEL
    events: list[ChainEvent] = field(default_factory=list)  # that the chain has sent of itself
    recorded: list[int] = field(default_factory=list)
    said: list[tuple[int, Deployment]] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    broker_away: int = 0  # publishes that fail
    connected = True

    def effect(self) -> None:
        self.effects += 1
        if self.effects == self.kill_at:
            raise KilledError

    # --- Records ---

    async def put(self, kind: str, key: str, value: bytes) -> None:
        self.effect()
        self.kept[kind, key] = value
        self.effect()

    async def put_once(self, kind: str, key: str, value: bytes) -> bool:
        self.effect()
        return self.kept.setdefault((kind, key), value) is value

    async def get(self, kind: str, key: str) -> bytes | None:
        return self.kept.get((kind, key))

    async def items(self, kind: str) -> Sequence[tuple[str, bytes]]:
        return sorted((key, value) for (of, key), value in self.kept.items() if of == kind)

    async def drop(self, kind: str, key: str) -> None:
        self.effect()
        self.kept.pop((kind, key), None)

    # --- Bus ---

    async def publish(self, topic: str, payload: bytes, *, retain: bool, **options: object) -> None:
        if self.broker_away:
            self.broker_away -= 1
            raise BusUnavailable("away")
        self.effect()
        assert retain
        self.said.append((Header.parse(payload).round, decode(Deployment, payload[HEADER_BYTES:])))
        self.effect()

    # --- Chain ---

    async def round(self, task: str, round_: int) -> RoundRecord:
        state, accuracy = (self.state, 900_000) if round_ == ROUND else (RoundState.DEPLOYED, 850_000)
        nothing = (NO_DIGEST,) * 4
        return RoundRecord(
            state, PARENT, *nothing, 3, 60, NO_DIGEST, MODEL, NO_DIGEST, NUMBER, accuracy, 0, epoch=1, opened_block=2
        )

    async def lineage(self, task: str, model: Digest) -> LineageRecord:
        assert model == PARENT
        return LineageRecord(NO_DIGEST, ROUND - 1, NUMBER - 1, rolled_back=False)

    async def record_deployed(self, task: str, round_: int, *, agents: int) -> None:
        self.effect()
        self._require(RoundState.APPROVED)
        self.state = RoundState.DEPLOYED
        self.recorded.append(agents)
        self.effect()

    async def roll_back(self, task: str, round_: int, *, agents: int, report: Digest) -> None:
        self.effect()
        self._require(RoundState.APPROVED)
        self.go_back(agents, report)
        self.effect()

    def _require(self, state: RoundState) -> None:
        if self.state != state:
            raise ChainReverted("transaction", "WrongState", {"state": int(self.state)})

    def go_back(self, agents: int, report: Digest) -> None:
        self.state, self.deployment, self.in_use = RoundState.ROLLED_BACK, NUMBER + 1, PARENT
        values = {"deployment": NUMBER + 1, "failed": MODEL, "model": PARENT, "agents": agents, "report": report}
        self.events.append(event("RolledBack", 77, **values))

    # --- Standings ---

    async def quorum(self, fits: Callable[[Facts], bool]) -> tuple[Facts, tuple[()]]:
        while True:
            facts = Facts(1, TRUST.electorate.digest, self.deployment, self.in_use, "ee" * 32)
            if fits(facts):
                return facts, ()
            await asyncio.sleep(0.01)

    # --- the listener ---

    async def listener(self) -> Deploying:
        anything: Any = self  # it stands for each of these ports
        agents = Parties(Role.AGENT)
        agents.records = {a.address: PartyRecord(a.address, a.address, Role.AGENT, "00" * 32, True) for a in FLEET}
        post = Post(anything, TRUST, LISTENER, self.clock)
        entries = await DeploymentLog.load(TRUST.task, anything, self.clock, anchored=0)
        return Deploying(post, anything, agents, anything, anything, POLICY, entries)

    @property
    def last(self) -> Deployment | None:
        return self.said[-1][1] if self.said else None


Step = tuple[Callable[[Deploying], Awaitable[None]], Callable[[], bool]]  # what comes, and what it leads to


def event(name: str, block: int, **values: object) -> ChainEvent:
    facts = {"task": task_id(TRUST.task), "round": ROUND, **values}
    return ChainEvent(f"{name}/{block}", name, facts, block, "bc" * 32, f"{block:064x}")


def votes() -> list[ChainEvent]:
    return [
        event(
            "VoteRevealed",
            40 + n,
            validator=vote.validator,
            accuracy=vote.accuracy,
            baseline=vote.baseline,
            approved=vote.approved,
            signature=vote.signature,
        )
        for n, vote in enumerate(VOTES)
    ]


def approval() -> ChainEvent:
    facts = {"deployment": NUMBER, "parent": PARENT, "model": MODEL, "accuracy": 900_000, "baseline": 850_000}
    return event("RoundApproved", 50, **facts)


def word(agent: Identity, outcome: str, number: int = NUMBER, model: Digest = MODEL) -> Envelope:
    post = Post(None, TRUST, agent, FakeClock())  # type: ignore[arg-type]  # it only signs
    body = encode(Installed(number, model, outcome, "so it is"))  # type: ignore[arg-type]  # the test's own words
    return post.sign(Kind.INSTALLED, body, round_=ROUND)


def heard(message: Envelope) -> Callable[[Deploying], Awaitable[None]]:
    return lambda listener: listener.on_installed(message)


def happens(one: ChainEvent) -> Callable[[Deploying], Awaitable[None]]:
    return lambda listener: listener.on_event(one)


async def live(world: World, steps: Sequence[Step]) -> None:
    """Each step in turn, until what it leads to is there. A listener that dies is started again.

    What it had not finished with comes again, as it does from the follower and from the broker.
    """
    todo = list(steps)
    while todo:
        listener = await world.listener()
        running = asyncio.create_task(listener.run())
        try:
            async with asyncio.timeout(WAIT_S):
                while todo:
                    comes, leads_to = todo[0]
                    await comes(listener)
                    todo[0] = nothing, leads_to
                    while not leads_to():
                        if running.done():
                            running.result()
                        await asyncio.sleep(0.001)
                    del todo[0]
        except KilledError:
            world.kill_at = 0
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def nothing(_: Deploying) -> None:
    """It has come already."""


def always() -> bool:
    return True


def chosen() -> tuple[Identity, Identity]:
    """The canaries."""
    named = choose_canaries(NUMBER, [agent.address for agent in FLEET], POLICY.canary_share)
    first, second = (agent for agent in FLEET if agent.address in named)
    return first, second


def well(world: World) -> list[Step]:
    """Two canaries are well, then the fleet has it."""
    first, second = chosen()
    return [
        *((happens(one), always) for one in votes()),
        (happens(approval()), lambda: world.last is not None),
        (heard(word(first, "installed")), always),
        (heard(word(second, "installed")), always),
        (heard(word(first, "healthy")), always),
        (heard(word(second, "healthy")), lambda: world.last is not None and world.last.canaries is None),
        *((heard(word(agent, "installed")), always) for agent in FLEET[:-1]),
        (heard(word(FLEET[-1], "installed")), lambda: world.state == RoundState.DEPLOYED),
    ]


def sick(world: World) -> list[Step]:
    """One canary is not well, and the chain's word that it went back follows."""
    first, second = chosen()

    async def chain_says(listener: Deploying) -> None:
        await listener.on_event(world.events[0])

    return [
        *((happens(one), always) for one in votes()),
        (happens(approval()), lambda: world.last is not None),
        (heard(word(first, "installed")), always),
        (heard(word(first, "healthy")), always),
        (heard(word(second, "unhealthy")), lambda: bool(world.events)),
        (chain_says, lambda: world.last is not None and world.last.restored is not None),
    ]


def numbers(world: World) -> list[int]:
    return [body.deployment for _, body in world.said]


async def effects_of(steps: Callable[[World], list[Step]]) -> int:
    world = World()
    await live(world, steps(world))
    return world.effects


async def test_model_that_is_well_goes_to_the_fleet_wherever_the_listener_is_killed() -> None:
    for kill_at in range(await effects_of(well) + 1):
        world = World(kill_at=kill_at)
        await live(world, well(world))
        assert world.state == RoundState.DEPLOYED
        assert len(world.recorded) == 1, kill_at
        assert set(numbers(world)) == {NUMBER}
        first, last = world.said[0][1], world.said[-1][1]
        assert set(first.canaries or ()) == {agent.address for agent in chosen()}
        assert last == msgspec.structs.replace(first, canaries=None)
        assert last.votes == tuple(sorted((v for v in VOTES if v.approved), key=lambda vote: vote.validator))
        assert (last.epoch, last.transaction, last.block) == (1, f"{50:064x}", 50)
        # once it was for everybody it was never for canaries again
        stages = [body.canaries is None for _, body in world.said]
        assert stages == sorted(stages), kill_at


async def test_sick_model_goes_back_wherever_the_listener_is_killed() -> None:
    for kill_at in range(await effects_of(sick) + 1):
        world = World(kill_at=kill_at)
        await live(world, sick(world))
        assert (world.state, world.recorded, len(world.events)) == (RoundState.ROLLED_BACK, [], 1)
        assert numbers(world) == sorted(numbers(world)), kill_at
        assert all(body.canaries for _, body in world.said if body.deployment == NUMBER), kill_at
        restored = world.last
        assert restored is not None
        assert (restored.deployment, restored.model, restored.parent) == (NUMBER + 1, PARENT, MODEL)
        assert (restored.canaries, restored.votes, restored.accuracy) == (None, (), 850_000)
        assert (restored.transaction, restored.block) == (f"{77:064x}", 77)
        assert restored.restored is not None
        assert restored.restored.facts.deployment == NUMBER + 1


async def test_rollback_leaves_the_canaries_signed_words_as_evidence_under_the_digest_on_chain() -> None:
    world = World()
    await live(world, sick(world))
    ((_, kept),) = await world.items("canary-report")
    report = decode(CanaryReport, kept)
    assert world.events[0].values["report"] == report.digest
    first, second = chosen()
    said = check_canary_report(report, TRUST.domain)
    assert {device: word.outcome for device, word in said.items()} == {
        first.address: "healthy",
        second.address: "unhealthy",
    }
    assert said[second.address].reason == "so it is"


@pytest.mark.parametrize("changes", [{"deployment": 5}, {"round": 4}, {"canaries": ()}, {"task": "another"}])
async def test_evidence_that_is_not_of_this_deployment_is_refused(changes: dict[str, object]) -> None:
    world = World()
    await live(world, sick(world))
    ((_, kept),) = await world.items("canary-report")
    with pytest.raises(Refused):
        check_canary_report(msgspec.structs.replace(decode(CanaryReport, kept), **changes), TRUST.domain)


async def test_canaries_that_never_answer_cost_the_patience_and_the_model() -> None:
    world = World()

    async def time_passes(_: Deploying) -> None:
        await world.clock.advance(POLICY.canary_patience_s)

    steps = [(happens(approval()), lambda: bool(world.said)), (time_passes, lambda: bool(world.events))]
    await live(world, steps)
    assert world.events[0].values["agents"] == 0
    ((_, kept),) = await world.items("canary-report")
    assert decode(CanaryReport, kept).reports == ()


async def test_broker_that_is_away_is_told_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain_listener.deploying.RETRY_S", 0)
    world = World(broker_away=3)
    await live(world, well(world))
    assert world.broker_away == 0
    assert world.said[-1][1].canaries is None


async def test_operator_rolls_back_what_is_everywhere() -> None:
    world = World()

    async def operator_rolls_back(listener: Deploying) -> None:
        world.go_back(4, "dd" * 32)
        await listener.on_event(world.events[0])

    await live(world, [*well(world), (operator_rolls_back, lambda: numbers(world)[-1] == NUMBER + 1)])
    assert world.last is not None
    assert world.last.restored is not None


async def test_what_is_history_stays_history() -> None:
    """After a restart the follower may tell of the approval again, while the chain has gone back already."""
    world = World()
    await live(world, sick(world))
    before = list(world.said)
    await live(
        world, [(happens(approval()), always), (happens(world.events[0]), lambda: len(world.said) > len(before))]
    )
    assert world.said == [*before, before[-1]]  # only what stands was announced, again


async def test_event_of_another_task_and_report_of_another_round_change_nothing() -> None:
    world = World()
    listener = await world.listener()
    foreign = approval()
    await listener.on_event(msgspec.structs.replace(foreign, values={**foreign.values, "task": "00" * 32}))
    assert world.kept == {}
    await listener.on_event(approval())
    before = dict(world.kept)
    agent = chosen()[0]
    body = encode(Installed(NUMBER, MODEL, "unhealthy"))
    post = Post(None, TRUST, agent, FakeClock())  # type: ignore[arg-type]  # it only signs
    await listener.on_installed(post.sign(Kind.INSTALLED, body, round_=ROUND + 1))
    assert world.kept == before


@pytest.mark.parametrize(("model", "foreign"), [(MODEL, False), (PARENT, True)])
async def test_refusal_of_what_was_never_sent_is_an_error(model: Digest, foreign: bool) -> None:
    world = World()
    listener = await world.listener()
    await listener.on_event(approval())
    current = await listener._current()
    assert current is not None
    await listener.entries.append(ROUND, current.body)
    post = Post(None, TRUST, chosen()[0], FakeClock())  # type: ignore[arg-type]  # it only signs
    with capture_logs() as logs:
        body = encode(Installed(NUMBER, model, "refused", "refused: no_quorum"))
        await listener.on_installed(post.sign(Kind.INSTALLED, body, round_=ROUND))
    assert [line["log_level"] == "error" for line in logs] == [foreign]
