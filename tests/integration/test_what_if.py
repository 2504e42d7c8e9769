"""What-if on a validator: a real registry with the rig's cycles in it, a real chain, two real models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest
import pytest_asyncio
import tomli_w

from gemel.adapters.file_blobs import FileBlobs
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.console.fleet_files import CHAIN_FILE
from gemel.demo.rig import read_cycles
from gemel.errors import ChainUnavailable, ConfigError, Malformed, Unavailable
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import task
from gemel.twin.state import Property, Quality, Twin, blank, hold, to_json
from gemel.wire import tensors, topics
from gemel.wire.attestations import SumAttestation
from gemel.wire.messages import TrainingPlan
from gemel.wire.types import sha256
from tests.support.brokers import embedded_broker
from tests.support.chains import CHAIN_ID, FUNDED, TERMS, Fleet, open_fleet, running_chain
from tests.support.fleet import in_one_task
from tests.support.parties import TRUST, VALIDATORS
from tests.support.ports import free_port
from tests.support.services import REPOSITORY, Registry, running
from tests.support.voters import approve, confirm
from validator.settings import ValidatorSettings
from validator.what_if_command import Question, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")
SITE, RIG, HALF, KELVIN = "north", "rig1", "half-a-rig", "rig-in-kelvin"
ROWS = [100, 700, 1200, 1700, 2100]  # of the rig's cycles: each in another condition
CYCLE_S, STORED_S = 60, 20
TOKEN, NARROW, FOREIGN = "what-if-token", "narrow-token", "a-token-that-nobody-made"
TASK = TRUST.task
POLICY = "01" * 32
FRESH = "fresh"  # a task whose M0 is deployed, and nothing is voted on


class GuardedRegistry(Registry):
    """A registry that asks for tokens."""

    def __init__(self, folder: Path, broker: str) -> None:
        super().__init__(folder, broker)
        tokens = folder / "tokens.toml"
        scopes = {TOKEN: [f"read:{SITE}/*"], NARROW: [f"read:{SITE}/another"]}
        entries = [
            {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": granted}
            for name, granted in scopes.items()
        ]
        tokens.write_text(tomli_w.dumps({"token": entries}))
        tokens.chmod(0o600)
        config = folder / "registry.toml"
        config.write_text(f'tokens_file = "{tokens}"\n' + config.read_text())


@dataclass(frozen=True)
class Plant:
    """A validator's files beside what they point to."""

    config: Path
    cycles: Windows  # as they were replayed
    in_use: bytes
    candidate: bytes
    from_ms: int
    chain_url: str

    @property
    def settings(self) -> ValidatorSettings:
        return ValidatorSettings.load(self.config)

    @property
    def question(self) -> Question:
        return Question(SITE, RIG, self.from_ms, self.from_ms + len(ROWS) * CYCLE_S * 1000, None, None)

    def with_registry(self, **changed: str) -> ValidatorSettings:
        section = self.settings.registry.model_copy(update=changed)
        return self.settings.model_copy(update={"registry": section})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    async with in_one_task(_plant(tmp_path_factory.mktemp("what-if"))) as opened:
        yield opened


@asynccontextmanager
async def _plant(folder: Path) -> AsyncIterator[Plant]:
    cycles = read_cycles()
    in_use, candidate = _models(cycles)
    async with (
        running_chain(folder, FUNDED) as chain,
        open_fleet(chain) as fleet,
        embedded_broker() as broker,
        running(GuardedRegistry(folder, broker)) as registry,
    ):
        await _in_use(fleet, FRESH, sha256(in_use))
        await _in_use(fleet, TASK, sha256(in_use))
        await _voted_on(fleet, sha256(in_use), sha256(candidate))
        replayed = cycles.take(np.array(ROWS))
        from_ms = await _tell_history(registry, broker, replayed.inputs)
        for model in (in_use, candidate):
            await FileBlobs(folder / "state" / "blobs").put(model)
        (folder / "token").write_text(TOKEN + "\n")
        trust = msgspec.structs.replace(TRUST, chain_id=CHAIN_ID, registry=fleet.place.rounds.registry)
        for name in (TASK, FRESH, "unheard-of"):
            named = msgspec.structs.replace(trust, task=name)
            (folder / f"trust-{name}.json").write_bytes(msgspec.json.encode(named))
        (folder / CHAIN_FILE).write_bytes(msgspec.json.encode(fleet.place))
        document = {
            "state_dir": str(folder / "state"),
            "trust_file": str(folder / f"trust-{TASK}.json"),
            "key_file": str(folder / "not-needed.json"),
            "policy_file": str(folder / "not-needed.json"),
            "reference_file": str(folder / "not-needed.npz"),
            "task": "gemel.learning.tasks.hydraulic:task",
            "chain": {"file": str(folder / CHAIN_FILE)},
            "registry": {"url": registry.url, "token_file": str(folder / "token")},
        }
        config = folder / "validator.toml"
        config.write_text(tomli_w.dumps(document))
        yield Plant(config, replayed, in_use, candidate, from_ms, chain.url)


def _models(cycles: Windows) -> tuple[bytes, bytes]:
    learnt = cycles.take(np.arange(0, len(cycles), 7))
    young = task.train(task.initial_model(1), learnt, TrainingPlan(1, 32, 0.002), 1, 0).model
    older = task.train(young, learnt, TrainingPlan(4, 32, 0.002), 1, 1).model
    return tensors.to_bytes(young), tensors.to_bytes(older)


# --- the chain ------------------------------------------------------------------------------------


async def _in_use(fleet: Fleet, name: str, model: str) -> None:
    gate = {"threshold": 0, "max_regression": 1_000_000, "minimum_owners": 3, "quorum_part": TERMS.quorum_part}
    await fleet.operator.create_task(name, policy=POLICY, **gate)
    await fleet.coordinator.propose_genesis(name, model=model, policy=POLICY)
    await approve(fleet.coordinator, name, 0, VALIDATORS, accuracy=500_000)
    await fleet.listener.record_deployed(name, 0, agents=1)


async def _voted_on(fleet: Fleet, base: str, model: str) -> None:
    roster, updates, total, opened, explanation = (f"{n:02x}" * 32 for n in range(2, 7))
    await fleet.coordinator.open_round(TASK, 1, base=base, policy=POLICY)
    await fleet.coordinator.close_list(TASK, 1, root=roster)
    await fleet.coordinator.propose_sum(TASK, 1, updates_root=updates, sum_digest=total, owners=3, weight=9)
    await confirm(fleet.coordinator, SumAttestation(TASK, 1, updates, total, 3, 9), VALIDATORS[:2])
    await fleet.custodian.record_opening(TASK, 1, opened=opened)
    await fleet.coordinator.propose_candidate(TASK, 1, model=model, explanation=explanation, accuracy=600_000)


# --- the history ----------------------------------------------------------------------------------


async def _tell_history(registry: Registry, broker: str, inputs: np.ndarray) -> int:
    """Tell the registry of three machines on the bus; returns when the first of them began to run."""
    async with MqttBus(BusSettings(broker, "gateways")) as bus:
        stood = hold(blank(SITE, RIG), {"oil": Property(1.0, "l", 1, 1, Quality.GOOD)})
        await _publish(bus, stood)
        await _stored(registry, f"/twins/{SITE}/{RIG}", lambda found: found["twin"]["version"] == stood.version)
        from_ms = time.time_ns() // 1_000_000
        await asyncio.sleep(0.05)  # so that what follows is received later
        for machine in (stood, blank(SITE, HALF), blank(SITE, KELVIN)):
            twin = machine
            for second, row in enumerate(inputs.reshape(-1, len(task.inputs))):
                readings = _readings(machine.asset, row, from_ms + second * 1000)
                if machine is not stood and second == 70:
                    break
                twin = hold(twin, readings)
                await _publish(bus, twin)
            last = f"/twins/{SITE}/{machine.asset}"
            await _stored(registry, last, lambda found, v=twin.version: found["twin"]["version"] == v)
    return from_ms


def _readings(asset: str, row: np.ndarray, time_ms: int) -> dict[str, Property]:
    columns = task.inputs[: 4 if asset == HALF else None]
    kelvin = asset == KELVIN
    return {
        column.name: Property(float(value), "K" if kelvin else column.unit, time_ms, time_ms, Quality.GOOD)
        for column, value in zip(columns, row, strict=False)
    }


async def _publish(bus: MqttBus, twin: Twin) -> None:
    await bus.publish(topics.twin_state(twin.site, twin.asset), to_json(twin), retain=True)


async def _stored(registry: Registry, path: str, holds: object) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with asyncio.timeout(STORED_S), aiohttp.ClientSession(headers=headers) as session:
        while True:
            async with session.get(registry.url + path) as answer:
                if answer.status == 200 and holds(await answer.json()):
                    return
            await asyncio.sleep(0.05)


# --- the answer -----------------------------------------------------------------------------------


async def command(plant: Plant, *more: str) -> tuple[int, str, str]:
    """The command as an operator types it: exit status, stdout, stderr."""
    question = plant.question
    arguments = ["--config", str(plant.config), "--site", SITE, "--from", str(question.from_ms)]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "validator", "what-if", *arguments, "--to", str(question.to_ms), *more],
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_command_shows_both_models_on_every_cycle_of_the_stored_history(plant: Plant, tmp_path: Path) -> None:
    labels = [
        {head.name: head.classes[label] for head, label in zip(task.heads, row, strict=True)}
        for row in plant.cycles.labels
    ]
    file = tmp_path / "inspections.csv"
    lines = [
        f"{plant.from_ms + (cycle + 1) * CYCLE_S * 1000}," + ",".join(found.values())
        for cycle, found in enumerate(labels)
    ]
    file.write_text("\n".join(["time," + ",".join(labels[0]), *lines]) + "\n")
    code, out, err = await command(plant, "--asset", RIG, "--inspections", str(file), "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["in_use"], answer["candidate"]) == (sha256(plant.in_use), sha256(plant.candidate))
    windows = answer["comparison"]["windows"]
    ends = [plant.from_ms + (cycle + 1) * CYCLE_S * 1000 for cycle in range(len(ROWS))]
    assert [window["end_ms"] for window in windows] == ends
    for side, model in (("in_use", plant.in_use), ("candidate", plant.candidate)):
        expected = task.predict(tensors.from_bytes(model), plant.cycles.inputs)
        for head in task.heads:
            for row, window in enumerate(windows):
                given = expected[head.name][row]
                said = window["heads"][head.name]
                assert said[side]["condition"] == head.classes[int(given.argmax())]
                assert said[side]["confidence"] == pytest.approx(float(given.max()), abs=1e-3)
                assert said["inspected"] == labels[row][head.name]
        assert (
            answer["fork"][side]["health"]["cooler"]["condition"] == windows[-1]["heads"]["cooler"][side]["condition"]
        )
    assert answer["comparison"]["differing"] > 0  # else this test would not tell the models apart
    fork = answer["fork"]
    assert list(fork["stood"]["properties"]) == ["oil"]  # as the registry had it then, not as it is now
    assert fork["candidate"]["model"] == {"digest": sha256(plant.candidate), "deployment": 2}
    assert fork["candidate"]["properties"] == fork["in_use"]["properties"]
    assert fork["in_use"]["properties"]["TS1"]["value"] == pytest.approx(
        float(plant.cycles.inputs[-1, -1, 0]), rel=1e-5
    )


async def test_candidate_may_be_a_file(plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(plant.in_use)
    by_file = await ask(plant.settings, replace(plant.question, candidate=str(file)))
    assert by_file.candidate == by_file.in_use
    assert by_file.comparison.differing == 0


async def test_part_of_the_history_and_a_digest_give_the_windows_in_it(plant: Plant) -> None:
    begin_ms = plant.from_ms + CYCLE_S * 1000
    digest = sha256(plant.candidate)
    question = replace(plant.question, from_ms=begin_ms, to_ms=begin_ms + 150_000, candidate=digest)
    answer = await ask(plant.settings, question)
    assert answer.candidate == digest
    assert [window.start_ms for window in answer.comparison.windows] == [begin_ms, begin_ms + CYCLE_S * 1000]


# --- what cannot be answered is said in one line --------------------------------------------------


async def test_command_says_in_one_line_what_is_wrong(plant: Plant) -> None:
    code, out, err = await command(plant, "--asset", "rig9")
    assert (code, out) == (2, "")
    assert err == f"what-if: --asset: {SITE}/rig9: a twin that the registry knows\n"


async def test_time_without_history_is_refused(plant: Plant) -> None:
    question = replace(plant.question, from_ms=1_700_000_000_000, to_ms=1_700_000_060_000)
    with pytest.raises(
        ConfigError, match="north/rig1: 2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z: a time with history"
    ):
        await ask(plant.settings, question)


async def test_history_without_a_whole_window_names_what_is_missing(plant: Plant) -> None:
    with pytest.raises(ConfigError, match=r"no usable reading of VS1, CE, CP, SE"):
        await ask(plant.settings, replace(plant.question, asset=HALF))


async def test_units_other_than_the_tasks_are_refused(plant: Plant) -> None:
    with pytest.raises(ConfigError, match="TS1 in degC, as the task reads it, not K"):
        await ask(plant.settings, replace(plant.question, asset=KELVIN))


@pytest.mark.parametrize("changed", [{"asset": "../rig1"}, {"site": "north?at=1"}, {"to_ms": 0}])
async def test_question_that_makes_no_sense_is_refused(plant: Plant, changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        await ask(plant.settings, replace(plant.question, **changed))


@pytest.mark.parametrize(
    ("token", "said"),
    [(FOREIGN, "a token that is known"), (NARROW, "does not grant read:north/rig1"), ("", "one token")],
)
async def test_token_that_is_refused_is_said(plant: Plant, tmp_path: Path, token: str, said: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(ConfigError, match=rf"token_file: .*{said}"):
        await ask(plant.with_registry(token_file=file), plant.question)


async def test_registry_that_is_away_or_is_none_is_said(plant: Plant) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"the registry at {url} is away"):
        await ask(plant.with_registry(url=url), plant.question)
    with pytest.raises((Malformed, Unavailable, ConfigError), match="registry"):
        await ask(plant.with_registry(url=plant.chain_url), plant.question)
    with pytest.raises(ConfigError, match="http://host:port"):
        await ask(plant.with_registry(url="registry"), plant.question)


async def test_registry_must_be_named(plant: Plant) -> None:
    with pytest.raises(ConfigError, match=r"registry\.url: required"):
        await ask(plant.settings.model_copy(update={"registry": None}), plant.question)


async def test_without_a_vote_a_candidate_must_be_named(plant: Plant) -> None:
    trust = plant.config.with_name(f"trust-{FRESH}.json")
    settings = plant.settings.model_copy(update={"trust_file": trust})
    with pytest.raises(ConfigError, match="round 0 is deployed, so nothing is voted on"):
        await ask(settings, plant.question)


async def test_without_a_model_in_use_there_is_nothing_to_compare(plant: Plant) -> None:
    trust = plant.config.with_name("trust-unheard-of.json")
    with pytest.raises(ConfigError, match="unheard-of: a task with a model in use"):
        await ask(plant.settings.model_copy(update={"trust_file": trust}), plant.question)


@pytest.mark.parametrize(
    ("named", "said"),
    [("ab" * 32, "blobs: abab.*: a model that this validator has"), ("/no/such/file", "a readable file")],
)
async def test_candidate_that_nobody_has_is_refused(plant: Plant, named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await ask(plant.settings, replace(plant.question, candidate=named))


async def test_candidate_that_is_no_model_of_the_task_is_refused(plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(tensors.to_bytes({"other": np.zeros(3, np.float32)}))
    with pytest.raises(ConfigError, match=r"--candidate: .*: a model of"):
        await ask(plant.settings, replace(plant.question, candidate=str(file)))


async def test_chain_that_is_away_is_said(plant: Plant) -> None:
    place = plant.settings.chain.model_copy(update={"rpc_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(ChainUnavailable):
        await ask(plant.settings.model_copy(update={"chain": place}), plant.question)
