"""Rounds under one-time keys, with the real broker, the real chain and real services: three custodians, and one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from gemel.console.auditor.verify import audit
from gemel.console.exporting import write_export
from gemel.ports import RoundState
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import write_letters
from gemel.sealing.onetime.plan import RING_DEGREE
from gemel.sealing.ports import Member
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Deployment, Installed, Opened, Receipt, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import sha256
from tests.support.crew import Crew, crew
from tests.support.fleet import OpenRound, Player, in_one_task, opened
from tests.support.tiny_task import task

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

HONEST, PLAYED = ("gateway-a", "gateway-b", "gateway-c"), "gateway-d"
OWNERS = {name: f"owner of {name}" for name in (*HONEST, PLAYED)}
VALIDATORS, CUSTODIANS = ("validator-1", "validator-2"), ("custodian", "custodian-2", "custodian-3")
ROUNDS = {"rounds": 3, "pause_s": 0, "context_s": 60, "commit_s": 60, "reveal_s": 20, "decide_s": 120}
UPDATE: Vector = np.full(task.manifest.size, 0.01, np.float32)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    """Three custodians and three honest gateways; the fourth is the test's. Its rounds wait for what it does."""
    folder = tmp_path_factory.mktemp("crew")
    async with in_one_task(crew(folder, OWNERS, validators=2, scheme="one-time-keys", custodians=3)) as hired:
        await say_what_is_installed(await hired.plant.play(PLAYED))
        await hired.start(*CUSTODIANS, *VALIDATORS, "listener", *HONEST, "coordinator", **ROUNDS)
        yield hired


async def say_what_is_installed(player: Player) -> None:
    """As every agent does: the listener waits for all of them."""
    trust, topics = player.post.trust, player.post.topics

    async def install(message: Envelope) -> None:
        body = decode(Deployment, message.body)
        topic = topics.installed(player.address)
        for outcome in ("installed", "healthy"):  # it may be a canary
            report = Installed(body.deployment, body.model, outcome)
            await player.post.say(topic, Kind.INSTALLED, encode(report), round_=message.header.round)

    await player.post.hear(topics.deployment, Kind.DEPLOYMENT, {trust.listener}, install)


async def invited(plant: Crew, number: int) -> tuple[Player, OpenRound]:
    player = plant.plant.players[PLAYED]
    return player, await plant.plant.invitation(player, number)


async def commit(player: Player, round_: OpenRound, body: bytes) -> None:
    update = player.update(round_, body)
    await player.commit(round_, update, player.wrapped(update))


def said(plant: Crew, prefix: str, number: int) -> list[Envelope]:
    """Everything that was said in this round on topics that begin so."""
    heard = [opened(message) for message in plant.plant.witness.on(prefix)]
    return [message for message in heard if message.header.round == number]


async def test_update_without_a_letter_is_refused_and_two_custodians_open_the_round(plant: Crew) -> None:
    player, round_ = await invited(plant, 1)
    topics, address = plant.plant.topics, plant.plant.address
    async with plant.held(*VALIDATORS):  # so nobody confirms the sum before the custodian is dead
        await commit(player, round_, player.seal(round_, UPDATE).body)
        refusal = await plant.plant.heard(topics.receipt(player.address), where=lambda payload: b"refused" in payload)
        assert decode(Receipt, refusal.body).reason == Reason.NO_LETTER
        await plant.on_chain(1, RoundState.AGGREGATED)
        await plant["custodian"].kill()
    assert await plant.final(1) == RoundState.DEPLOYED
    record = plant.record(1)
    assert record is not None
    assert record.taken == {address(name) for name in HONEST}
    assert record.refused == {player.address: str(Reason.NO_LETTER)}
    totals = {message.header.sender for message in said(plant, topics.key_total(""), 1)}
    assert totals == {address("custodian-2"), address("custodian-3")}
    openings = {decode(Opened, message.body).opened for message in said(plant, topics.opened(""), 1)}
    assert openings == {(await plant.chain.round(plant.plant.trust.task, 1)).opened}


async def test_custodian_that_was_away_destroys_the_key_of_the_round_that_ended(plant: Crew) -> None:
    key = plant.plant.state("custodian") / "keys" / "round-000001.key"
    assert key.stat().st_mode & 0o777 == 0o600
    await plant.start("custodian")

    async def gone() -> bool:
        return not key.exists()

    await plant.until(gone, "the key of round 1 is gone")


def letters(player: Player, round_: OpenRound, body: bytes, key: int) -> tuple[bytes, ...]:
    """Letters for `body` that hold another key than the one that sealed it."""
    facts, member = RoundContext.parse(round_.context), Member(player.address, sha256(body))
    return write_letters(facts, member, np.full(RING_DEGREE, key, np.int64), secrets.token_bytes)


async def test_letter_that_does_not_fit_its_body_spoils_its_round_and_no_other(plant: Crew) -> None:
    player, round_ = await invited(plant, 2)
    body = player.seal(round_, UPDATE).body
    await player.send_letters(round_, letters(player, round_, body, key=1))
    await commit(player, round_, body)
    assert await plant.final(2) == RoundState.ABORTED
    record = plant.record(2)
    assert record is not None
    assert player.address in record.taken, "nothing gives such a letter away before the sum is to be opened"
    assert "a letter did not fit its body" in record.reason
    assert not said(plant, plant.plant.topics.opened(""), 2)
    (suspected,) = [line for line in plant["coordinator"].log.splitlines() if "has spoilt the round" in line]
    assert player.address in suspected


async def test_agent_whose_letters_contradict_each_other_is_found_out_and_left_out(plant: Crew) -> None:
    player, round_ = await invited(plant, 3)
    body = player.seal(round_, UPDATE).body
    one, other = (letters(player, round_, body, key) for key in (1, 2))
    await player.send_letters(round_, (one[0], other[1], other[2]))
    await commit(player, round_, body)
    assert await plant.final(3) == RoundState.DEPLOYED
    record = plant.record(3)
    assert record is not None
    assert record.refused == {player.address: str(Reason.NO_LETTER)}
    assert record.taken == {plant.plant.address(name) for name in HONEST}


async def test_audit_of_these_rounds_finds_nothing(plant: Crew) -> None:
    await write_export(plant.plant.root)
    report = audit(plant.plant.root)
    assert report.holds, report.findings
    assert report.held["opened sums"] == 2
    assert report.held["sums recomputed"] == 3


async def test_single_custodian_opens_a_round_and_leaves_no_key(tmp_path: Path) -> None:
    agents = {name: OWNERS[name] for name in HONEST}
    async with crew(tmp_path, agents, validators=2, scheme="one-time-keys") as plant:
        await plant.start("custodian", *VALIDATORS, "listener", *HONEST, "coordinator", **ROUNDS | {"rounds": 1})
        assert await plant.final(1) == RoundState.DEPLOYED
        keys = plant.plant.state("custodian") / "keys"

        async def gone() -> bool:
            return not list(keys.iterdir())

        await plant.until(gone, "the key is gone")
        await write_export(tmp_path)
    report = audit(tmp_path)
    assert report.holds, report.findings
    assert report.held["sums recomputed"] == 1
