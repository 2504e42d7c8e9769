"""How soon after its block an approval is a deployment message on the bus.

anvil, mosquitto with TLS and its security plugin, the chain listener as a process with its defaults (canaries first).
Rounds are held on chain without services; two agents hear the listener, and report as agents do, so that the next
round may open. The block of an approval is made here, when nothing else is: time counts from when it is asked for (or
the last of the blocks that must lie above it) until an agent has the first message of the deployment and has found
the listener's signature good.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from benchmarks.grants import percentiles
from benchmarks.rounds import Rounds
from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import MqttBus
from gemel.exchange.post import Post
from gemel.ports import RoundState
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Deployment, Installed, decode, encode
from gemel.wire.trust import Trust
from tests.support.parties import AGENTS, TRUST, VALIDATORS
from tests.support.ruled_plant import Plant, ruled_plant, settings

LISTENER_EVERY_S = 60.0  # its default for looks at the broker's rights
MOST_PAUSE_S = 0.5  # before a block: twice the listener's own interval between looks at the chain
BLOCK_S = 0.2  # between an approval's block and those above it
WAIT_S, LOOK_S = 20.0, 0.005


@dataclass(slots=True)
class Agent:
    """Hears deployments, and says at once that it runs them and is well."""

    post: Post
    heard: asyncio.Queue[tuple[float, Deployment]] = field(default_factory=asyncio.Queue)

    async def listen(self) -> None:
        """From now on."""
        topics, trust = self.post.topics, self.post.trust
        await self.post.hear(topics.deployment, Kind.DEPLOYMENT, {trust.listener}, self.on_deployment)

    async def on_deployment(self, message: Envelope) -> None:
        """Note when it came, and answer."""
        at_s, own = time.monotonic(), self.post.identity.address
        body = decode(Deployment, message.body)
        self.heard.put_nowait((at_s, body))
        is_canary = body.canaries is not None and own in body.canaries
        if body.canaries is not None and not is_canary:
            return
        for outcome in ("installed", "healthy") if is_canary else ("installed",):
            report = encode(Installed(body.deployment, body.model, outcome))
            await self.post.say(self.post.topics.installed(own), Kind.INSTALLED, report, round_=message.header.round)

    async def first_of(self, deployment: int) -> float:
        """When the first message of a deployment came (monotonic)."""
        async with asyncio.timeout(WAIT_S):
            while True:
                at_s, body = await self.heard.get()
                if body.deployment == deployment:
                    return at_s


@asynccontextmanager
async def agents_of(plant: Plant) -> AsyncIterator[list[Agent]]:
    """Both, connected with their certificates."""
    trust = msgspec.json.decode((plant.authority.directory / "trust.json").read_bytes(), type=Trust)
    async with AsyncExitStack() as stack:
        buses = [plant.gateway]
        for who in AGENTS[1:]:
            bus = MqttBus(settings(plant.authority, plant.broker.port, who.address))
            buses.append(await stack.enter_async_context(bus))
        agents = [_agent(bus, trust, who) for bus, who in zip(buses, AGENTS, strict=True)]
        for agent in agents:
            await agent.listen()
        yield agents


def _agent(bus: MqttBus, trust: Trust, who: Identity) -> Agent:
    return Agent(Post(bus, trust, who, SystemClock()))


async def ask_for_confirmations(plant: Plant, number: int) -> None:
    """The listener comes back, and lets so many blocks lie above an event before it believes it."""
    await plant.listener.stop()
    path = plant.authority.directory / "listener.toml"
    document = tomllib.loads(path.read_text())
    document["chain"]["confirmations"] = number
    path.write_text(tomli_w.dumps(document))
    await plant.listener.start()


@dataclass(frozen=True, slots=True)
class Approvals:
    """Has rounds approved at moments of our choice."""

    plant: Plant
    rounds: Rounds
    draw: random.Random

    async def approve(self, confirmations: int, ear: Agent) -> float:
        """One more round: ms from its confirmed block to the message.

        Raises RuntimeError for an approval in another block, and for a message before it was confirmed.
        """
        chain, coordinator = self.plant.fleet.chain, self.plant.fleet.coordinator
        number = await self.rounds.proposed()
        await self.rounds.vote(number)
        deployment = (await coordinator.task(self.rounds.task)).deployment + 1
        await asyncio.sleep(self.draw.uniform(0, MOST_PAUSE_S))
        await chain.rpc("evm_setAutomine", False)
        expected = (await coordinator.head()).block + 1
        finalising = asyncio.create_task(coordinator.finalise(self.rounds.task, number))
        await self._pending()
        for _ in range(confirmations):
            await chain.rpc("evm_mine")
            await asyncio.sleep(BLOCK_S)
        confirmed_s = time.monotonic()
        await chain.rpc("evm_mine")
        came_s = await ear.first_of(deployment)
        await chain.rpc("evm_setAutomine", True)
        if (block := (await finalising).block) != expected:
            raise RuntimeError(f"round {number} was decided in block {block}, not {expected}")
        if came_s < confirmed_s:
            raise RuntimeError(f"round {number} was announced before {confirmations} blocks lay above it")
        await self.deployed(number)
        return (came_s - confirmed_s) * 1000

    async def _pending(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                pool: Any = await self.plant.fleet.chain.rpc("txpool_status")
                if int(pool["pending"], 16):
                    return
                await asyncio.sleep(LOOK_S)

    async def deployed(self, number: int) -> None:
        """Wait until the listener has it on chain that the fleet runs the model."""
        async with asyncio.timeout(WAIT_S):
            while True:
                record = await self.plant.fleet.coordinator.round(self.rounds.task, number)
                if record.state is RoundState.DEPLOYED:
                    return
                await asyncio.sleep(LOOK_S)


async def measure(folder: Path, approvals: int, confirmed: int, confirmations: int, seed: int) -> dict[str, Any]:
    """All figures: so many `approvals` without confirmations, then `confirmed` of them with `confirmations`."""
    async with ruled_plant(folder, "anvil", (), every_s=LISTENER_EVERY_S) as plant, agents_of(plant) as agents:
        rounds = Rounds(plant.fleet, TRUST.task, VALIDATORS)
        work, ear = Approvals(plant, rounds, random.Random(seed)), agents[-1]
        await rounds.genesis()
        await work.deployed(0)
        figures: list[dict[str, Any]] = []
        for depth, number in ((0, approvals), (confirmations, confirmed)):
            if depth:
                await ask_for_confirmations(plant, depth)
            times_ms = []
            for n in range(number):
                times_ms.append(await work.approve(depth, ear))
                print(f"approval {n + 1} of {number}: {times_ms[-1]:.0f} ms", file=sys.stderr)
            row = {"confirmations": depth, "approvals": number, "block_s": BLOCK_S if depth else None}
            figures.append(row | percentiles(times_ms))
    return {"event_to_message": figures}
