"""The twin optimises itself: a sensor shifts, the model errs, agents ask for rounds, and a new model is right."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemel.learning.task import Windows
from gemel.ports import RoundState
from gemel.twin.state import DriftKind, Twin, from_json
from gemel.wire import topics
from gemel.wire.envelope import Header, Kind, pack
from gemel.wire.messages import Evidence, RoundAnswer, RoundRequest, decode, encode
from gemel.wire.tensors import from_bytes
from tests.support.fleet import SITE, TASK, Fleet, fleet, opened
from tests.support.tiny_task import HEADS, INPUTS, WINDOW_S, sample_windows, task

pytestmark = pytest.mark.slow

AGENTS = {"a": "owner of a", "b": "owner of b", "c": "owner of c"}
START_MS = 1_700_000_000_000
FLOW = [column.name for column in INPUTS].index("flow")
USUAL = 100  # windows before the shift: what is usual must be known well before half the answers wrong stand out
UNASKED = 1  # after it the valve is known without an error
DRIFT = {
    "inputs": ["flow"],
    "delta": 0.01,
    "grace_windows": 15,
    "input_strength": 1.0,
    "hold_windows": 1,
    "hold_examples": 5,
    "cool_down_s": 2.0,
}
ROUNDS: dict[str, Any] = {
    "rounds": 30,
    "pause_s": 1,
    "on_request": True,
    "unasked_rounds": UNASKED,
    "request_agents": 2,
    "request_every_s": 1,
}


def shifted(windows: Windows) -> Windows:
    """As a flow meter that was mounted wrongly would see them: an open valve looks half shut."""
    inputs = windows.inputs.copy()
    inputs[:, :, FLOW] = np.clip(inputs[:, :, FLOW] - 2.5, 0, None)
    return Windows(inputs, windows.labels)


class Replay:
    """Windows and their inspections, to all machines, one after the other in source time."""

    def __init__(self, plant: Fleet) -> None:
        self._plant, self._time_ms = plant, START_MS

    async def play(self, windows: Windows) -> None:
        for values, labels in zip(windows.inputs, windows.labels, strict=True):
            for row in values:
                reading = {column.name: float(value) for column, value in zip(INPUTS, row, strict=True)}
                await self._say("sensors", {"time": self._time_ms, **reading})
                self._time_ms += 1000
            found = {head.name: head.classes[label] for head, label in zip(HEADS, labels, strict=True)}
            await self._say("inspection", {"time": self._time_ms, **found})
            await asyncio.sleep(0.05)  # for the model to say something about each window

    async def _say(self, leaf: str, document: dict[str, Any]) -> None:
        payload = json.dumps(document).encode()
        async with asyncio.TaskGroup() as tasks:
            for name in AGENTS:
                tasks.create_task(self._plant.bus.publish(f"plant/{name}/{leaf}", payload))


def twin_of(plant: Fleet, name: str) -> Twin:
    return from_json(plant.witness.on(topics.twin_state(SITE, f"{name}-rig"))[-1].payload)


def valve_accuracy(plant: Fleet, windows: Windows) -> float:
    kept = (plant.state("a") / "models").glob("*.safetensors")  # in use, and the one before it
    model = max(kept, key=lambda path: path.stat().st_mtime_ns)
    return task.evaluate(from_bytes(model.read_bytes()), windows).per_head["valve"]


async def test_shifted_sensor_is_noticed_rounds_are_asked_for_and_the_error_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Fleet._agent_section

    def section(self: Fleet, name: str) -> dict[str, Any]:
        return plain(self, name) | {"drift": DRIFT, "examples_capacity": 50, "twin_rate_hz": 20}

    monkeypatch.setattr(Fleet, "_agent_section", section)
    async with fleet(tmp_path, AGENTS) as plant:
        for seed, name in enumerate(AGENTS):
            await plant.give_examples(name, seed, 50)
        await plant.start("custodian", "listener", "validator-1", "validator-2", "coordinator", *AGENTS, **ROUNDS)
        chain = await plant.chain_of("operator")
        await plant.reached(chain, UNASKED, RoundState.DEPLOYED)
        replay, usual = Replay(plant), sample_windows(50, USUAL)
        await replay.play(usual)
        assert twin_of(plant, "a").drift == {}
        assert (await chain.task(TASK)).last_round == UNASKED  # nobody has asked, so nothing is learnt
        assert valve_accuracy(plant, usual) > 0.9
        other = shifted(sample_windows(51, 200))
        before = valve_accuracy(plant, other)
        assert before < 0.7

        begun_ms = START_MS + USUAL * WINDOW_S * 1000
        seen: list[Twin] = []

        for seed in range(60, 160):
            await plant.wait(replay.play(shifted(sample_windows(seed, 10))))
            seen.append(twin_of(plant, "a"))
            drifted = any(twin.drift for twin in seen)
            if drifted and not seen[-1].drift and valve_accuracy(plant, other) > 0.9:
                break
        else:
            raise AssertionError(f"still adrift: {seen[-1].drift}\n{plant.log('a')[-3000:]}")

        drifts = [drift for twin in seen for drift in twin.drift.values()]
        assert {drift.kind for drift in drifts} >= {DriftKind.ERROR}
        assert all(drift.since_ms >= begun_ms - 5 * WINDOW_S * 1000 for drift in drifts)
        assert any(drift.answer.startswith("accepted") for drift in drifts)
        assert valve_accuracy(plant, other) > before + 0.2
        assert (await chain.task(TASK)).last_round > UNASKED

        requests = [opened(m) for m in plant.witness.on(plant.topics.round_request().removesuffix("+"))]
        asked = decode(RoundRequest, requests[0].body)
        assert asked.examples >= DRIFT["hold_examples"]
        assert asked.evidence[0].stream in {"flow", "error.valve", "error.pump"}
        assert len({request.header.sender for request in requests}) >= 2  # one alone gets no round
        await a_stranger_and_a_repetition_change_nothing(plant, requests[-1].header)


async def a_stranger_and_a_repetition_change_nothing(plant: Fleet, last: Header) -> None:
    """Requests that the coordinator refuses: it says why, and goes on."""
    agent = await plant.play("a")
    body = encode(RoundRequest("input_drift", (Evidence("flow", 1, 1.0, 2.0, 3.0),), 1))
    since = plant.witness.now
    stale = agent.post.sign(Kind.ROUND_REQUEST, body, base="00" * 32)
    await plant.bus.publish(plant.topics.round_request(agent.address), pack(stale))
    answer = await plant.heard(plant.topics.round_answer(agent.address), since=since)
    told = decode(RoundAnswer, answer.body)
    assert (told.outcome, told.issued_at_ms) == ("refused", stale.header.issued_at_ms)
    assert told.reason in {"wrong_base", "running"}
    since = plant.witness.now
    broken = agent.post.sign(Kind.ROUND_REQUEST, b"{}", base=last.base)
    await plant.bus.publish(plant.topics.round_request(agent.address), pack(broken))
    answer = await plant.heard(plant.topics.round_answer(agent.address), since=since)
    assert decode(RoundAnswer, answer.body).reason == "malformed"
