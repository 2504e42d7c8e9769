"""One whole round of real services, every message of it recorded: held once, looked at by several tests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.learning.participant import _own_seed
from gemel.exchange.round_folder import RoundFolder
from gemel.ports import BusMessage, RoundState
from gemel.wire import tensors
from gemel.wire.envelope import HEADER_BYTES, Header, Kind
from gemel.wire.messages import Commitment, Deployment, Fetch, Invitation, Policy, decode, encode
from gemel.wire.tensors import Vector
from gemel.wire.topics import Learning
from gemel.wire.types import Address, Digest
from tests.support.fleet import Fleet, fleet, opened
from tests.support.tiny_task import sample_windows, task

AGENTS = ("gateway-a", "gateway-b", "gateway-c")
SERVICES = ("custodian", "validator-1", "validator-2", "listener")
ROUND, SAMPLES = 1, 60
_CHUNK_HEAD_BYTES = 56  # before a chunk's data (gemel/wire/chunks.py)


@dataclass(frozen=True, slots=True)
class WitnessedRound:
    """What was heard, and where the parties keep their state. Nothing runs any more."""

    folder: Path
    messages: tuple[BusMessage, ...]
    addresses: dict[str, Address]
    topics: Learning
    policy: Policy
    refused_fetches: float  # of an agent's frame, by another agent

    @property
    def round_folder(self) -> Path:
        """Where the coordinator keeps the round."""
        return RoundFolder(self.folder / "coordinator", ROUND).path

    def learning(self) -> list[BusMessage]:
        """Messages on the task's topics."""
        prefix = self.topics.roster.removesuffix("roster")
        return [message for message in self.messages if message.topic.startswith(prefix)]

    def transfers(self) -> list[bytes]:
        """Every transfer, put together from its chunks."""
        parts: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        for message in self.messages:
            if message.payload.startswith(b"GCHK"):
                parts[message.topic][message.payload[40:44]] = message.payload[_CHUNK_HEAD_BYTES:]
        return [b"".join(chunks[index] for index in sorted(chunks)) for chunks in parts.values()]

    def models(self) -> list[bytes]:
        """M0 and the model that the round gave, from the coordinator's blobs."""
        heard = [opened(message) for message in self.messages if message.topic == self.topics.deployment]
        digests = dict.fromkeys(decode(Deployment, message.body).model for message in heard)
        return [self._blob(digest) for digest in digests]

    def update_of(self, agent: str) -> Vector:
        """What an agent learnt, made again from what it had: equal arguments give equal bytes."""
        invitation = Header.parse(packed := (self.round_folder / "invitation").read_bytes())
        seed = _own_seed(decode(Invitation, packed[HEADER_BYTES:]).seed, self.addresses[agent])
        base = tensors.from_bytes(self._blob(invitation.base), task.manifest)
        windows = sample_windows(AGENTS.index(agent), SAMPLES)
        trained = task.train(base, windows, self.policy.training, seed, ROUND)
        return tensors.flatten(trained.model) - tensors.flatten(base)

    def _blob(self, digest: Digest) -> bytes:
        (path,) = (self.folder / "coordinator" / "blobs").rglob(digest)
        return path.read_bytes()


async def hold_round(folder: Path) -> WitnessedRound:
    """Found a fleet, hold one round with real processes only, and end them."""
    async with fleet(folder, {agent: f"owner of {agent}" for agent in AGENTS}) as plant:
        for number, agent in enumerate(AGENTS):
            await plant.give_examples(agent, number, SAMPLES)
        await plant.start(*SERVICES, *AGENTS)
        for name in ("validator-1", AGENTS[0]):
            await plant.play(name)
        await plant.start("coordinator")
        await asyncio.gather(*(_attack(plant, agent) for agent in AGENTS))
        chain = await plant.chain_of("listener")
        await plant.reached(chain, ROUND, RoundState.DEPLOYED)
        return WitnessedRound(
            folder=folder,
            messages=tuple(plant.witness.messages),
            addresses={name: plant.address(name) for name in plant.keys},
            topics=plant.topics,
            policy=plant.plan.policy,
            refused_fetches=await plant.metric(
                AGENTS[1], "gemel_messages_refused_total", kind="fetch", reason="unregistered"
            ),
        )


async def _attack(plant: Fleet, agent: str) -> None:
    """As soon as an agent has committed, say nonsense in its name, and ask for its frame.

    With a collector's key, which will get it once the list is closed, and with another agent's, which never will.
    """
    collector, neighbour = plant.players["validator-1"], plant.players[AGENTS[0]]
    own = plant.address(agent)  # on the first agent's topic the others' forgeries may come before its own word
    heard = await plant.heard(plant.topics.commitment(own), where=lambda payload: Header.parse(payload).sender == own)
    forged = replace(heard.header, weight=1).pack() + heard.body
    await neighbour.bus.publish(plant.topics.commitment(neighbour.address), forged)
    request = encode(Fetch(Commitment.parse(heard.body).transfer.digest, ((0, 1),)))
    for asking in (collector, neighbour):
        topic = plant.topics.fetch(plant.address(agent), asking.address)
        await asking.post.say(topic, Kind.FETCH, request)
