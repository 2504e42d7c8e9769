"""A small real fleet for tests: broker, chain, founded contracts, real service processes on demand, and all keys.

    async with fleet(folder, agents=("a", "b", "c")) as plant:
        await plant.start("custodian")              # a real process, with files of its own
        mallory = await plant.play("a")             # or the test itself, with that party's real key
        heard = await plant.witness.message(plant.topics.roster)

The test's witness hears every message on the bus: the embedded broker has no access list. Whoever waits through
`Fleet.wait` fails as soon as a process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiohttp
import tomli_w
from msgspec.structs import replace

from edge_agent.learning.examples import Examples
from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.clock import SystemClock
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import NetworkTerms
from gemel.adapters.key_files import Keys
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.console.fleet_files import CHAIN_FILE, KEYS_FOLDER, POLICY_FILE, TRUST_FILE, read_place
from gemel.console.founding import AgentPlan, FleetPlan, GatePlan, create_keys, found, policy_of
from gemel.demo.children import Children
from gemel.exchange.admission import Terms
from gemel.exchange.chain_watch import AnyOf
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.exchange.round_contexts import announced_context
from gemel.exchange.transfers import Transfers
from gemel.learning.measuring import save_windows
from gemel.ports import BusMessage, RoundRecord, RoundState
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import sign_letter
from gemel.sealing.ports import Sealed
from gemel.sealing.work import seal_update
from gemel.twin.window import Example, Window
from gemel.wire import boxes, envelope
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES, Envelope, Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import WHOLE, Commitment, Entry, Invitation, Policy, SealingPolicy, TrainingPlan, decode
from gemel.wire.tensors import Vector
from gemel.wire.topics import Learning
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Digest
from tests.support.brokers import embedded_broker
from tests.support.chains import CHAIN_ID, REPOSITORY, running_chain
from tests.support.ports import free_port
from tests.support.tiny_task import sample_windows, task

TASK_PATH = "tests.support.tiny_task:task"
TASK, SITE = "tiny-condition", "north"
WAIT_S = 120.0  # for what a healthy fleet does in a second or two; a busy machine is given time
LOOK_S = 0.02
ROUNDS = {"pause_s": 0, "context_s": 60, "commit_s": 120, "reveal_s": 60, "decide_s": 120, "keep_frames": True}
TERMS = NetworkTerms(commit_s=30, reveal_s=30)  # so long a ballot waits for a validator that is away
OPEN_GATE = GatePlan(threshold=0, max_regression=1_000_000)
TRAINING = TrainingPlan(epochs=2, batch_size=10, learning_rate=0.05)
_MODULES = {"validator": "validator", "custodian": "custodian", "listener": "chain_listener"}

T = TypeVar("T")
Scheme = Literal["bfv-packed", "one-time-keys"]


def module_of(name: str) -> str:
    """The module of a service by its party's name: custodian-2 is a custodian."""
    return _MODULES.get(name.rstrip("-0123456789"), name)


def fleet_plan(
    agents: Mapping[str, str],
    rpc_url: str,
    *,
    contributors: int,
    validators: int = 2,
    levels: int = 1,
    trust: Mapping[str, int] = {},
    minimum_owners: int = 3,
    two_owners_exception: str = "",
    sealing: SealingPolicy | None = None,
    training: TrainingPlan = TRAINING,
    scheme: Scheme = "bfv-packed",
    custodians: Literal[1, 3] = 1,
    technicians: tuple[Address, ...] = (),
    inspectors: tuple[Address, ...] = (),
    network: NetworkTerms = TERMS,
    gate: GatePlan = OPEN_GATE,
) -> FleetPlan:
    """Agents by name with their owners, and those with less than full trust; both of two validators must agree."""
    sealing = sealing or SealingPolicy(scheme, 8, 0.1, contributors, weight_cap=100, levels=levels)
    policy = Policy(
        sealing=sealing,
        training=training,
        minimum_owners=minimum_owners,
        max_frame_bytes=200_000,
        two_owners_exception=two_owners_exception,
    )
    return FleetPlan(
        fleet="tests",
        task=TASK,
        rpc_url=rpc_url,
        chain_id=CHAIN_ID,
        validators=validators,
        gate=gate,
        network=network,
        policy=policy,
        agents=tuple(
            AgentPlan(name, owner, trust.get(name, WHOLE), assets=(f"{SITE}/{name}-rig",))
            for name, owner in agents.items()
        ),
        custodians=custodians,
        technicians=technicians,
        inspectors=inspectors,
    )


# --- hearing --------------------------------------------------------------------------------------


class Witness:
    """Every message on the bus, in the order in which the broker handed them out."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []
        self._came = asyncio.Condition()

    async def hear(self, message: BusMessage) -> None:
        self.messages.append(message)
        async with self._came:
            self._came.notify_all()

    @property
    def now(self) -> int:
        """Where the record stands; hand it to `message` as `since`."""
        return len(self.messages)

    async def message(
        self, topic: str, *, since: int = 0, where: Callable[[bytes], bool] = lambda _: True
    ) -> BusMessage:
        """The first message on `topic` after `since` whose payload fits, now or as soon as it comes."""
        seen = since
        async with self._came:
            while True:
                for message in self.messages[seen:]:
                    if message.topic == topic and where(message.payload):
                        return message
                seen = len(self.messages)
                await self._came.wait()

    def on(self, prefix: str) -> list[BusMessage]:
        """Everything heard so far on topics that begin so."""
        return [message for message in self.messages if message.topic.startswith(prefix)]


def opened(message: BusMessage) -> Envelope:
    """Header and body of a message that a real service signed."""
    return Envelope(Header.parse(message.payload), message.payload[HEADER_BYTES:])


# --- playing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round that takes commitments, as its invitation has it."""

    number: int
    base: Digest
    policy: Policy
    context: bytes
    invitation: Invitation


@dataclass(slots=True)
class Player:
    """A party that the test plays with its real key: it may say anything."""

    name: str
    keys: Keys
    bus: MqttBus
    post: Post
    transfers: Transfers
    mailbox: Mailbox  # what custodians have said of their contexts since it was connected

    @property
    def address(self) -> Address:
        return self.keys.identity.address

    def update(self, round_: OpenRound, body: bytes, /, *, weight: int = 20, **changes: Any) -> Envelope:
        """A signed update; `changes` are header fields to lie about."""
        facts = {"round_": round_.number, "base": round_.base, "policy": round_.policy.digest, "weight": weight}
        return self.post.sign(Kind.UPDATE, body, **facts | changes)

    def sealed(self, round_: OpenRound, vector: Vector, *, weight: int = 20) -> bytes:
        """An honest sealed body."""
        return self.seal(round_, vector, weight=weight).body

    def seal(self, round_: OpenRound, vector: Vector, *, weight: int = 20) -> Sealed:
        """An honest sealed body, and under one-time keys its letters."""
        return seal_update(round_.context, round_.policy.sealing, vector, weight, vector * 0, self.address)

    async def send_letters(self, round_: OpenRound, letters: Sequence[bytes]) -> None:
        """One-time keys: sign them, and send each to its custodian."""
        context = RoundContext.parse(round_.context)
        facts = {"round_": round_.number, "base": round_.base, "policy": round_.policy.digest}
        for custodian, letter in zip(self.post.trust.custodians, letters, strict=True):
            signed = sign_letter(letter, self.keys.identity, context)
            topic = self.post.topics.letter(custodian.address, self.address)
            await self.post.say(topic, Kind.LETTER, signed, **facts)

    def wrapped(self, frame: Envelope) -> bytes:
        """A frame as it travels."""
        return boxes.wrap(envelope.pack(frame), [c.box for c in self.post.trust.collectors])

    def commitment(self, round_: OpenRound, update: Envelope, transfer: Transfer, /, **changes: Any) -> bytes:
        """A signed commitment message; `changes` are fields of the outer header to lie about."""
        facts = {"round_": round_.number, "base": round_.base, "policy": round_.policy.digest}
        body = Commitment(update.header.pack(), transfer).pack()
        return envelope.pack(self.post.sign(Kind.COMMITMENT, body, **facts | changes))

    async def commit(self, round_: OpenRound, update: Envelope, wrapped: bytes) -> Entry:
        """Commit to `update`, promise `wrapped`, and hold that ready."""
        transfer = await self.transfers.offer(wrapped)
        await self.say_commitment(self.commitment(round_, update, transfer))
        return Entry(self.address, update.header.body_digest, update.header.weight, transfer)

    async def say_commitment(self, message: bytes) -> None:
        await self.bus.publish(self.post.topics.commitment(self.address), message)


# --- the fleet ------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """What a test holds of its fleet."""

    root: Path
    broker_url: str
    plan: FleetPlan
    keys: Mapping[str, Keys]
    trust: Trust
    place: ChainPlace
    witness: Witness
    children: Children
    bus: MqttBus
    _open: AsyncExitStack
    _dying: asyncio.Task[None]
    task_path: str = TASK_PATH  # one whose windows are those of tiny_task
    statistics_files: dict[str, Path] = field(default_factory=dict)  # of a coordinator or validator, by name
    players: dict[str, Player] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def topics(self) -> Learning:
        return Learning(self.trust.fleet, self.trust.task)

    def address(self, name: str) -> Address:
        return self.keys[name].identity.address

    @property
    def validators(self) -> tuple[Identity, ...]:
        """All of them, by name."""
        return tuple(self.keys[name].identity for name in self.plan.validator_names)

    def state(self, name: str) -> Path:
        """The state directory of a service."""
        return self.root / name

    # --- real processes ---

    async def start(self, *names: str, **rounds: int) -> None:
        """Start real services by their parties' names and wait until they are ready; `rounds` for a coordinator."""
        for name in names:
            module = module_of(name)
            arguments = ["--config", str(self._configure(name, rounds))]
            if name in {agent.name for agent in self.plan.agents}:
                module, arguments = "edge_agent", ["run", *arguments]
            environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
            await self.children.start(name, module, arguments, environment=environment)
        for name in names:
            await self.wait(self._ready(name))

    async def _ready(self, name: str) -> None:
        while " ready " not in self.log(name):  # noqa: ASYNC110  another process's log has no event here
            await asyncio.sleep(LOOK_S)

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.root / "logs" / f"{name}.log").read_text()

    def _configure(self, name: str, rounds: Mapping[str, int]) -> Path:
        self._ports[name] = free_port()
        document: dict[str, Any] = {
            "state_dir": str(self.state(name)),
            "trust_file": str(self.root / TRUST_FILE),
            "key_file": str(self.root / KEYS_FOLDER / f"{name}.json"),
            "metrics_port": self._ports[name],
            "bus": {"url": self.broker_url},
        }
        if name in {agent.name for agent in self.plan.agents}:
            document |= self._agent_section(name)
        else:
            document |= {
                "policy_file": str(self.root / POLICY_FILE),
                "chain": {"file": str(self.root / CHAIN_FILE), "rpc_url": self.place.rpc_url},
            }
        if name in ("coordinator", *self.plan.custodian_names, *self.plan.validator_names):
            document["task"] = self.task_path
        if name in ("coordinator", *self.plan.validator_names):
            reference = self.root / f"{name}.npz"
            save_windows(reference, sample_windows(seed=1000 + len(self._ports)))
            document["reference_file"] = str(reference)
        if name in self.plan.validator_names:
            document["patience_s"] = 3.0  # where a test plays the coordinator, nobody hands anything in for them
        if name in self.statistics_files:
            document["statistics_file"] = str(self.statistics_files[name])
        if name == "coordinator":
            document["rounds"] = ROUNDS | {"rounds": 1} | rounds
        path = self.root / f"{name}.toml"
        path.write_text(tomli_w.dumps(document))
        return path

    def _agent_section(self, name: str) -> dict[str, Any]:
        properties = {c.name: {"unit": c.unit, "minimum": c.low, "maximum": c.high} for c in task.inputs}
        sensors = self.root / f"{name}-sensors.toml"
        source = {"topic": f"plant/{name}/sensors", "properties": properties}
        sensors.write_text(tomli_w.dumps({"source": [source], "inspection": {"topic": f"plant/{name}/inspection"}}))
        return {
            "site": SITE,
            "name": name,
            "asset": f"{name}-rig",
            "sensors_file": str(sensors),
            "task": self.task_path,
            "health_watch_s": 0.5,
        }

    async def give_examples(self, name: str, seed: int, count: int = 60) -> None:
        """What an agent would have learnt from its machine before."""
        windows = sample_windows(seed, count)
        self.state(name).mkdir(mode=0o700, exist_ok=True)
        async with Examples(self.state(name) / "examples.sqlite", task, count) as examples:
            await examples.add(
                [
                    Example(Window(n * 6000, (n + 1) * 6000, values, 0), tuple(int(label) for label in labels))
                    for n, (values, labels) in enumerate(zip(windows.inputs, windows.labels, strict=True))
                ]
            )

    async def metric(self, name: str, sample: str, **labels: str) -> float:
        """One sample of a service's real /metrics endpoint; 0 where it is not there yet."""
        line = sample + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "} "
        url = f"http://127.0.0.1:{self._ports[name]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        return sum(float(found.rpartition(" ")[2]) for found in text.splitlines() if found.startswith(line))

    # --- parties that the test plays ---

    async def play(self, name: str, keys: Keys | None = None) -> Player:
        """A party with its real key (or the keys of nobody), connected; the same again when asked again."""
        if name not in self.players:
            keys = keys or self.keys[name]
            bus = await self._open.enter_async_context(MqttBus(BusSettings(self.broker_url, f"played-{name}")))
            post = Post(bus, self.trust, keys.identity, SystemClock())
            transfers = Transfers(post, self.root / f"played-{name}")
            everybody = AnyOf({key.identity.address for key in self.keys.values()})
            await transfers.listen(everybody)
            serving = asyncio.create_task(transfers.serve(), name=f"{name} serves")
            self._open.callback(serving.cancel)
            records = await self._open.enter_async_context(SqliteRecords(self.root / f"played-{name}.sqlite"))
            mailbox = Mailbox(records)
            await post.hear(post.topics.context(), Kind.CONTEXT, self.trust.custodian_addresses, mailbox.put)
            for message in self.witness.on(post.topics.context("")):  # what was said before
                await mailbox.put(opened(message))
            self.players[name] = Player(name, keys, bus, post, transfers, mailbox)
        return self.players[name]

    async def chain_of(self, name: str) -> EvmChain:
        """The chain, with a party's key to write with."""
        identity = self.keys[name].identity
        return await self._open.enter_async_context(EvmChain(self.place, identity, poll_s=LOOK_S))

    # --- waiting ---

    async def wait(self, for_: Awaitable[T]) -> T:
        """The result, unless a process dies first (ChildDied) or it takes longer than WAIT_S (TimeoutError)."""
        waiting = asyncio.ensure_future(for_)
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.wait({waiting, self._dying}, return_when=asyncio.FIRST_COMPLETED)
            if self._dying.done() and not waiting.done():
                self._dying.result()
            return await waiting
        finally:
            waiting.cancel()

    async def until(self, holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Wait for something that another process does and says on no bus."""

        async def look() -> None:
            while not await holds():  # noqa: ASYNC110  it happens in another process
                await asyncio.sleep(LOOK_S)

        await self.wait(look())

    async def heard(self, topic: str, *, since: int = 0, where: Callable[[bytes], bool] = lambda _: True) -> Envelope:
        """A signed message on the bus, now or as soon as it comes."""
        return opened(await self.wait(self.witness.message(topic, since=since, where=where)))

    async def reached(self, chain: EvmChain, round_: int, *states: RoundState) -> RoundRecord:
        """The round's record once the chain has it in one of these states."""
        record = await chain.round(self.trust.task, round_)

        async def there() -> bool:
            nonlocal record
            record = await chain.round(self.trust.task, round_)
            return record.state in states

        await self.until(there)
        return record

    async def invitation(self, by: Player, number: int) -> OpenRound:
        """The round as a registered agent gets to know it."""
        message = await self.heard(
            self.topics.invitation, where=lambda payload: Header.parse(payload).round == number
        )
        invitation = decode(Invitation, message.body)
        terms = Terms(self.trust, number, message.header.base, invitation.policy)
        context = await self.wait(
            announced_context(
                terms, task.manifest.size, by.mailbox, by.transfers, deadline_s=WAIT_S, named=invitation.context
            )
        )
        return OpenRound(number, message.header.base, invitation.policy, context, invitation)


@asynccontextmanager
async def fleet(
    folder: Path, agents: Mapping[str, str], *, contributors: int = 8, node: str = "embedded", **options: Any
) -> AsyncIterator[Fleet]:
    """Found it in `folder`: agents by name with their owners, `options` as fleet_plan's. Everything ends with it.

    `node` is the chain's (running_chain).
    """
    planned = fleet_plan(agents, "http://127.0.0.1", contributors=contributors, **options)
    keys = create_keys(folder, planned)
    addresses = tuple(key.identity.address for key in keys.values())
    async with (
        AsyncExitStack() as stack,
        embedded_broker() as broker_url,
        running_chain(folder, addresses, node) as chain,
        Children(folder / "logs") as children,
        AsyncExitStack() as opened_later,
        MqttBus(BusSettings(broker_url, "witness")) as bus,
    ):
        plan = fleet_plan(agents, chain.url, contributors=contributors, **options)
        trust = await found(folder, plan, keys)
        plan = replace(plan, policy=policy_of(plan, keys))
        witness = Witness()
        await bus.subscribe("#", witness.hear)
        dying = asyncio.create_task(children.first_death(), name="deaths")
        stack.callback(dying.cancel)
        yield Fleet(
            folder,
            broker_url,
            plan,
            keys,
            trust,
            read_place(folder),
            witness,
            children,
            bus,
            opened_later,
            dying,
        )


@asynccontextmanager
async def in_one_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave an async context in a task of its own, as its task groups want; for pytest's fixtures."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    holding = asyncio.create_task(hold(), name="fixture")
    try:
        yield await entered
    finally:
        leave.set()
        await holding
