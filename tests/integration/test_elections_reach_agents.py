"""Elections on a real chain, over a real broker, to agents that see no chain and trust nobody on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from chain_listener.handovers import Handovers
from edge_agent.learning.evidence import Evidence
from gemel.adapters.clock import SystemClock
from gemel.adapters.contract_abi import STAKE_TOKEN
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import TOKEN
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Refused
from gemel.exchange.chain_watch import ChainWatch
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.exchange.standings import Standings
from gemel.host.background import Background
from gemel.host.chain_party import ChainParty, follow_chain
from gemel.host.party import Party
from gemel.ports import BusMessage, ChainEvent, Records
from gemel.wire.envelope import Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import encode
from gemel.wire.trust import Trust
from gemel.wire.types import NO_DIGEST
from tests.support.brokers import embedded_broker
from tests.support.chains import FUNDED, TERMS, Fleet, open_fleet, running_chain
from tests.support.evidence import evidence_of
from tests.support.parties import AGENTS, LISTENER, TRUST, VALIDATORS, identity
from tests.support.seats import electorate, handover
from validator.standing import StandingReporter

pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_scope="module")]

EPOCH_S = 2
STAKES = (500, 400, 200)  # two seats: the third has none at first
POLICY = "cd" * 32
WAIT_S = 30.0
LOOK_S = 0.02


async def until(holds: Callable[[], bool]) -> None:
    """Fail where it does not come true."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110  what another task does
            await asyncio.sleep(LOOK_S)


async def close_epochs(fleet: Fleet) -> None:
    """As the listener's keeper, but by the chain's clock, which founding moved ahead: each block is a second more."""
    elections = EvmElections(fleet.operator.calls)
    while True:
        if (await fleet.operator.head()).time_s < await elections.epoch_ends_s():
            await fleet.operator.calls.send(STAKE_TOKEN, "approve", LISTENER.address, 0)  # a block
            await asyncio.sleep(0.1)
        else:
            await elections.close_epoch()


@dataclass
class Network:
    """Chain, broker, validators that report, and a listener that closes epochs and hands over."""

    folder: Path
    fleet: Fleet
    trust: Trust
    broker_url: str
    stack: AsyncExitStack
    background: Background
    names: list[str] = field(default_factory=list)

    async def post(self, who: Identity, name: str, url: str | None = None) -> tuple[Post, Electorates, Records]:
        """A party's post on the broker, with records of its own: a name again is the same party after a restart."""
        records = await self.stack.enter_async_context(SqliteRecords(self.folder / f"{name}.sqlite"))
        electorates = await Electorates.load(records, self.trust)
        self.names.append(name)
        settings = BusSettings(url or self.broker_url, f"{name}-{len(self.names)}")
        bus = await self.stack.enter_async_context(MqttBus(settings))
        post = Post(bus, self.trust, who, SystemClock(), in_force=lambda: electorates.trust)
        return post, electorates, records

    async def start_validator(self, client: EvmChain, who: Identity) -> None:
        post, electorates, records = await self.post(who, f"validator-{who.address}")
        reporter = StandingReporter(post, electorates, client, EvmElections(client.calls), interval_s=0.5)
        self._follow(client, post, electorates, records, reporter.on_event)
        self.background.start(reporter.run(), "standing")

    async def start_listener(self, url: str | None = None) -> None:
        """Once more: on the same records, as after a restart."""
        client = self.fleet.listener
        post, electorates, records = await self.post(LISTENER, "listener", url)
        standings = Standings(post, electorates)
        handovers = Handovers(post, records, electorates, standings)
        standings.on_heard = handovers.look
        await standings.listen()
        self._follow(client, post, electorates, records, handovers.on_event)
        self.background.start(handovers.run(), "handovers")

    def _follow(
        self,
        client: EvmChain,
        post: Post,
        electorates: Electorates,
        records: Records,
        on_event: Callable[[ChainEvent], object],
    ) -> None:
        """As a service does."""
        checkpoint = self.folder / f"{self.names[-1]}-events.sqlite"
        watch = ChainWatch(client, self.trust.task, checkpoint, post.clock)
        party = Party(self.trust, None, records, post.bus, post, None, None, electorates)  # type: ignore[arg-type]
        opened = ChainParty(party, client, client.calls, watch, None, None)  # type: ignore[arg-type]
        follow_chain(self.background, opened, on_event)  # type: ignore[arg-type]

    async def agent(self, name: str, url: str | None = None, *, rpc_urls: tuple[str, ...] = ()) -> Agent:
        """An agent as it was founded, on this broker; the same again by its name."""
        post, electorates, records = await self.post(AGENTS[0], name, url)
        evidence = await evidence_of(post, records, self.folder / name, electorates=electorates, rpc_urls=rpc_urls)
        await evidence.listen()
        self.background.start(evidence.run(), name)
        return Agent(evidence, electorates)


@dataclass
class Agent:
    evidence: Evidence
    electorates: Electorates


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    folder = tmp_path_factory.mktemp("network")
    terms = replace(TERMS, seats=2, epoch_s=EPOCH_S)
    async with (
        running_chain(folder, FUNDED) as chain,
        open_fleet(chain, terms=terms, stakes=STAKES) as fleet,
        embedded_broker() as broker_url,
        AsyncExitStack() as stack,
        Background() as background,
    ):
        await fleet.operator.create_task(
            TRUST.task, threshold=0, max_regression=0, minimum_owners=3, quorum_part=600_000, policy=POLICY
        )
        pinned = await fleet.operator.electorate(TRUST.task, await fleet.operator.epoch())
        trust = replace(TRUST, chain_id=chain.chain_id, registry=fleet.domain.registry, electorate=pinned)
        opened = Network(folder, fleet, trust, broker_url, stack, background)
        for client, who in zip(fleet.validators, VALIDATORS, strict=True):
            await opened.start_validator(client, who)
        await opened.start_listener()
        background.start(close_epochs(fleet), "epochs")
        yield opened


async def test_agents_follow_an_election_that_changes_the_set_and_know_how_new_their_evidence_is(
    network: Network,
) -> None:
    first, second, third = (each.address for each in VALIDATORS)
    agent = await network.agent("agent")
    await until(lambda: agent.evidence.age_s < 5)
    assert agent.electorates.current.addresses == {first, second}
    assert agent.evidence.deployment_on_chain == 0
    await agent.evidence.require_policy(POLICY)

    await EvmElections(network.fleet.operator.calls).delegate(third, 350 * TOKEN)
    await until(lambda: agent.electorates.current.addresses == {first, third})
    epoch = agent.electorates.current.epoch
    assert agent.electorates.of_epoch(epoch - 1).addresses == {first, second}
    assert agent.electorates.of_epoch(epoch) == await network.fleet.operator.electorate(TRUST.task, epoch)
    await until(lambda: agent.electorates.current.epoch >= epoch + 2)  # the new set hands over too
    await until(lambda: agent.evidence.age_s < 5)
    assert agent.evidence.status.remark == ""


async def test_agent_that_was_away_for_several_epochs_follows_all_of_them_at_once(network: Network) -> None:
    witness = await network.agent("witness")
    await until(lambda: witness.electorates.current.epoch >= 4)
    late = await network.agent("late")  # as it was founded: the broker kept every handover
    epoch = witness.electorates.current.epoch
    await until(lambda: all(late.electorates.knows(each) for each in range(2, epoch + 1)))
    assert late.electorates.of_epoch(epoch) == witness.electorates.of_epoch(epoch)


async def test_forged_handovers_on_the_listeners_topic_move_no_agent(network: Network) -> None:
    agent = await network.agent("cheated")
    await until(lambda: agent.evidence.age_s < 5)
    liars = [identity(n) for n in (301, 302)]
    listener, _, _ = await network.post(LISTENER, "lying-listener")  # with the listener's own key
    far = agent.electorates.current.epoch + 1000
    forged = handover(electorate(far, liars, quorum_part=600_000), [*liars, VALIDATORS[0]])
    topic = listener.topics.electorate(far)
    await listener.say(topic, Kind.HANDOVER, encode(forged), retain=True)
    epoch = agent.electorates.current.epoch
    await until(lambda: agent.electorates.current.epoch >= epoch + 2)  # the true ones go on
    assert agent.electorates.current.epoch < far
    again = await network.agent("cheated-later")  # finds the forgery among what the broker kept
    await until(lambda: again.electorates.current.epoch >= epoch + 2)
    assert not any(liar.address in known for liar in liars for known in (agent.electorates, again.electorates))
    await listener.bus.publish(topic, b"", retain=True)


@asynccontextmanager
async def relaying(network: Network) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Another broker between validators and an agent: it hands on while the event is set, and repeats what it has."""
    async with embedded_broker() as url, AsyncExitStack() as stack:
        here = await stack.enter_async_context(MqttBus(BusSettings(network.broker_url, "relay-in")))
        there = await stack.enter_async_context(MqttBus(BusSettings(url, "relay-out")))
        honest, kept = asyncio.Event(), dict[str, bytes]()

        async def hand_on(message: BusMessage) -> None:
            if honest.is_set():
                kept[message.topic] = message.payload
            if message.topic in kept:
                await there.publish(message.topic, kept[message.topic], retain=True)

        honest.set()
        base = network.trust
        await here.subscribe(f"gemel/v1/{base.fleet}/learning/{base.task}/#", hand_on)
        yield url, honest


async def test_broker_that_keeps_messages_back_leaves_an_agent_where_it_is_and_its_evidence_grows_old(
    network: Network,
) -> None:
    async with relaying(network) as (url, honest):
        agent = await network.agent("kept-back", url)
        await until(lambda: agent.evidence.age_s < 5)
        honest.clear()  # from now on the agent hears old words only, again and again
        await asyncio.sleep(LOOK_S)
        epoch = agent.electorates.current.epoch
        witness = await network.agent("beside")
        await until(lambda: witness.electorates.current.epoch >= epoch + 3)
        assert agent.electorates.current.epoch <= epoch + 1
        assert agent.evidence.age_s > EPOCH_S > witness.evidence.age_s
        honest.set()
        await until(lambda: agent.electorates.current.epoch >= epoch + 3 and agent.evidence.age_s < 2)


async def test_listener_says_every_handover_again_after_a_restart_also_to_a_broker_that_forgot(
    network: Network,
) -> None:
    witness = await network.agent("watching")
    await until(lambda: witness.electorates.current.epoch >= 4)
    async with embedded_broker() as url:  # nobody else speaks here
        await network.start_listener(url)
        agent = await network.agent("elsewhere", url)
        await until(lambda: agent.electorates.current.epoch >= 4)
        assert agent.evidence.age_s == float("inf")


async def test_agent_with_endpoints_asks_the_real_chain_before_it_installs(network: Network) -> None:
    url = network.fleet.chain.url
    agent = await network.agent("with-endpoints", rpc_urls=(url,))
    await agent.evidence.confirm_on_chain(0, NO_DIGEST)
    with pytest.raises(Refused, match="contradicted") as error:
        await agent.evidence.confirm_on_chain(0, "ab" * 32)
    assert url in error.value.detail
