"""Agents that drift and the coordinator's desk, over a real broker: strangers, repetitions, and a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from coordinator.office import Office
from coordinator.requesting import RequestDesk
from coordinator.settings import RoundSection
from edge_agent.inferring.change_detection import Series
from edge_agent.inferring.drift import DriftPolicy
from edge_agent.inferring.drift_watch import DriftWatch
from edge_agent.learning.asking import RoundAsker
from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange.post import Post
from gemel.host.metrics import Metrics
from gemel.twin.window import Window
from gemel.wire.envelope import Kind, pack
from gemel.wire.identity import Identity
from gemel.wire.messages import Evidence, RoundAnswer, RoundRequest, decode, encode
from gemel.wire.tensors import to_bytes
from gemel.wire.topics import Learning
from gemel.wire.types import Digest, sha256
from tests.support.brokers import mosquitto
from tests.support.fleet import opened
from tests.support.parties import AGENTS, COORDINATOR, TRUST, identity
from tests.support.tiny_task import INPUTS, task
from tests.support.twins import Ear

pytestmark = pytest.mark.broker

MODEL = to_bytes(task.initial_model(1))
PLAN = RoundSection(on_request=True, request_agents=2)
IN_USE: Digest = sha256(MODEL)
REQUEST = encode(RoundRequest("input_drift", (Evidence("flow", 1, 1.0, 9.0, 8.0),), 1))
TOPICS = Learning(TRUST.fleet, TRUST.task)
COME_S = 20


async def always_changed(series: dict[str, Series], _delta: float, _grace: int) -> dict[str, tuple[int, int]]:
    """River's place: from the third sample on something has changed."""
    return {name: (0, 2) for name, one in series.items() if len(one.values) > 2}


async def until(holds: Callable[[], float]) -> None:
    async with asyncio.timeout(COME_S):
        while not holds():  # noqa: ASYNC110  neither a metric nor a drift has an event
            await asyncio.sleep(0.02)


class Machine:
    """An agent's own parts, as far as they watch and ask."""

    def __init__(self, watch: DriftWatch, metrics: Metrics) -> None:
        self.watch, self._metrics = watch, metrics

    def requests(self, outcome: str) -> float:
        return self._metrics.registry.get_sample_value("gemel_round_requests_total", {"outcome": outcome}) or 0.0

    async def answered(self, begins: str) -> None:
        """The coordinator's word, as it stands in the twin."""
        await until(lambda: any(d.answer.startswith(begins) for d in self.watch._watched.drift.values()))


@asynccontextmanager
async def drifting(folder: Path, url: str, who: Identity, *, cool_down_s: float = 3600) -> AsyncIterator[Machine]:
    policy = DriftPolicy(("flow",), 0.01, 1, 1.0, 0.2, hold_windows=1, hold_examples=0, cool_down_s=cool_down_s)
    folder.mkdir()  # noqa: ASYNC240  a temporary folder
    metrics, clock = Metrics("test"), SystemClock()
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(SqliteRecords(folder / "records.sqlite"))
        examples = await stack.enter_async_context(Examples(folder / "examples.sqlite", task, 100))
        bus = await stack.enter_async_context(MqttBus(BusSettings(url, who.address)))
        model_in_use = await ModelInUse.load(records, folder / "models")
        await model_in_use.install(1, IN_USE, MODEL)
        counts = AgentMetrics(metrics)
        watch = await DriftWatch.load(
            policy,
            INPUTS,
            always_changed,
            model_in_use=model_in_use,
            records=records,
            metrics=counts,
            tell=lambda _drift: None,
        )
        asker = RoundAsker(Post(bus, TRUST, who, clock), watch, examples, model_in_use, counts)
        await asker.listen()
        running = [asyncio.create_task(watch.run()), asyncio.create_task(asker.run())]
        shift(watch)
        try:
            yield Machine(watch, metrics)
        finally:
            for one in running:
                one.cancel()
            await asyncio.wait(running)


def shift(watch: DriftWatch) -> None:
    """Windows of one level, then of another."""
    for number, level in enumerate((1.0, 1.0, 9.0, 9.0, 9.0)):
        values = np.full((task.window_s, len(INPUTS)), level, np.float32)
        watch.look_at(Window(number * 6000, (number + 1) * 6000, values, 0))


class Desk:
    """The coordinator's, with the broker's session of before."""

    def __init__(self, requests: RequestDesk, bus: MqttBus, metrics: Metrics) -> None:
        self.requests, self.bus, self._metrics = requests, bus, metrics

    def counting(self) -> Sequence[str]:
        return self.requests._requests.counting(SystemClock().now_ms(), PLAN)

    async def refuses(self, reason: str) -> None:
        labels = {"kind": "round_request", "reason": reason}
        await until(lambda: self._metrics.registry.get_sample_value("gemel_messages_refused_total", labels) or False)


@asynccontextmanager
async def desk_at(folder: Path, url: str) -> AsyncIterator[Desk]:
    metrics = Metrics("test")
    async with SqliteRecords(folder / "desk.sqlite") as records, MqttBus(BusSettings(url, "coordinator")) as bus:
        post = Post(bus, TRUST, COORDINATOR, SystemClock(), metrics.message_refused)
        office = SimpleNamespace(post=post, plan=PLAN, agents={agent.address for agent in AGENTS})
        desk = RequestDesk(cast("Office", office), records)
        await desk.listen()
        yield Desk(desk, bus, metrics)


def answers_to(ear: Ear, who: Identity) -> list[tuple[str, str]]:
    told = [opened(message) for message in ear.messages if message.topic == TOPICS.round_answer(who.address)]
    return [(answer.outcome, answer.reason) for answer in (decode(RoundAnswer, one.body) for one in told)]


async def test_stranger_gets_no_answer_and_goes_on_and_a_repetition_counts_and_is_answered_once(
    tmp_path: Path,
) -> None:
    one, stranger = AGENTS[0], identity(99)
    async with mosquitto() as url, MqttBus(BusSettings(url, "witness")) as witness, desk_at(tmp_path, url) as desk:
        asked, answers = Ear(), Ear()
        await witness.subscribe(TOPICS.round_request(), asked.hear)
        await witness.subscribe(TOPICS.round_answer(), answers.hear)
        desk.requests.open(IN_USE)
        async with drifting(tmp_path / "one", url, one) as machine:
            await machine.answered("accepted")
            first = await asked.first()
            for _ in range(3):  # as QoS 1 may
                await witness.publish(first.topic, first.payload)

            async with drifting(tmp_path / "stranger", url, stranger, cool_down_s=0.5) as lone:
                await desk.refuses("unregistered")
                await until(lambda: lone.requests("asked") > 1)  # after its cool-down, for all the silence
                assert lone.requests("accepted") == lone.requests("refused") == 0
                assert {drift.answer for drift in lone.watch._watched.drift.values()} == {""}

            post = Post(witness, TRUST, one, SystemClock())
            last = post.sign(Kind.ROUND_REQUEST, b"{}", base=IN_USE)  # answered after all that came before it
            await witness.publish(TOPICS.round_request(one.address), pack(last))
            await answers.first(lambda m: decode(RoundAnswer, opened(m).body).reason == "malformed")
            assert answers_to(answers, one) == [("accepted", ""), ("refused", "malformed")]
            assert answers_to(answers, stranger) == []
            assert desk.counting() == (one.address,)
            assert (machine.requests("asked"), machine.requests("accepted")) == (1, 1)


async def test_requests_outlive_the_coordinators_restart_and_those_sent_meanwhile_wait_until_it_knows_where_it_is(
    tmp_path: Path,
) -> None:
    one, two = AGENTS
    async with mosquitto() as url, MqttBus(BusSettings(url, "witness")) as witness, AsyncExitStack() as stack:
        asked = Ear()
        await witness.subscribe(TOPICS.round_request(), asked.hear)
        async with desk_at(tmp_path, url) as desk:
            desk.requests.open(IN_USE)
            machine = await stack.enter_async_context(drifting(tmp_path / "one", url, one))
            await machine.answered("accepted")

        late = await stack.enter_async_context(drifting(tmp_path / "two", url, two))
        await asked.first(lambda m: m.topic == TOPICS.round_request(two.address))

        async with desk_at(tmp_path, url) as desk:
            marker = Ear()
            await desk.bus.subscribe("marker", marker.hear)
            await witness.publish("marker", b"")
            await marker.first()  # so what waited at the broker has come, too
            assert desk.counting() == (one.address,)
            desk.requests.open(IN_USE)
            async with asyncio.timeout(COME_S):
                await desk.requests.enough()
            assert set(desk.counting()) == {one.address, two.address}
            await late.answered("accepted")
            await desk.requests.begun()

        async with desk_at(tmp_path, url) as desk:
            assert desk.counting() == ()  # a round has begun for them
            assert not desk.requests._requests.enough(SystemClock().now_ms(), PLAN)
            desk.requests.open(IN_USE)
            post = Post(witness, TRUST, one, SystemClock())
            again = post.sign(Kind.ROUND_REQUEST, REQUEST, base=IN_USE)
            answers = Ear()
            await witness.subscribe(TOPICS.round_answer(one.address), answers.hear)
            await witness.publish(TOPICS.round_request(one.address), pack(again))
            await answers.first()
            assert answers_to(answers, one) == [("refused", "too_soon")]  # who asked when is remembered, too
