"""The edge agent's process. All wiring is here.

edge-agent run --config agent.toml
edge-agent import-history --config agent.toml EXPORT     cycles from before, see edge_agent/learning/history.py
edge-agent rehearse --config agent.toml                  what this machine's cycles alone would teach a model
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from edge_agent import status
from edge_agent.inferring.change_detection import Series, find_changes
from edge_agent.inferring.drift_watch import DriftWatch
from edge_agent.inferring.inference import Inference
from edge_agent.inferring.judging import Judgement, judge
from edge_agent.learning import rehearsal
from edge_agent.learning.asking import RoundAsker
from edge_agent.learning.examples import Examples
from edge_agent.learning.history import History, read_history
from edge_agent.learning.membership import join
from edge_agent.learning.model_in_use import InUse, ModelInUse
from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.hearing import Hearing
from edge_agent.sensing.listening import Listening
from edge_agent.sensing.mapping import SensorMap, check_inputs, load_sensor_map
from edge_agent.settings import AgentSettings, DriftSection, drift_policy
from edge_agent.status import StatusBoard
from edge_agent.twinning.acting import DesiredDesk
from edge_agent.twinning.backfilling import Backfilling
from edge_agent.twinning.calling import maintenance_call
from edge_agent.twinning.further_twins import FurtherTwins
from edge_agent.twinning.live import LiveTwin, Twinning, kept_assets
from edge_agent.twinning.outbox import Outbox
from edge_agent.twinning.twin_file import TwinFile, load_twin_file
from edge_agent.vitals import Vitals
from gemel.adapters.mqtt_bus import MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ConfigError, Malformed, StoreUnavailable
from gemel.host.service import Host
from gemel.host.service import run as run_service
from gemel.host.workers import Workers
from gemel.learning.task import Task, load_task
from gemel.twin.state import mark_stale
from gemel.twin.window import Shape, Window, Windower
from gemel.wire.messages import TrainingPlan

EVER_MS = 2**53  # later than every window

app = typer.Typer(help="Keeps the twin of a machine, infers, and takes part in learning.", no_args_is_help=True)
ConfigOption = Annotated[Path, typer.Option(help="The agent's TOML file.", dir_okay=False)]


@app.command()
def run(config: ConfigOption) -> None:
    """Run the agent until SIGTERM."""
    run_service("edge-agent", _serve, lambda: AgentSettings.load(config))


@app.command("import-history")
def import_history(
    config: ConfigOption,
    export: Annotated[Path, typer.Argument(help="A folder with sensors.csv and inspections.csv.", file_okay=False)],
) -> None:
    """Bring in cycles from before the agent came, as a historian exports them. Running it again changes nothing."""
    try:
        history, new = asyncio.run(_import(AgentSettings.load(config), export))
    except (ConfigError, StoreUnavailable) as error:
        print(f"edge-agent: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(
        f"{len(history.examples)} labelled windows, {new} new; {history.dropped} windows dropped for gaps, "
        f"{history.refused} of {history.readings} readings refused, {history.unmatched} lines without a window"
    )


@app.command()
def rehearse(
    config: ConfigOption,
    epochs: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1.0)] = 0.002,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Train on this machine's older cycles, measure on its newest, and put nothing in use: does the task fit?"""
    plan = TrainingPlan(epochs, batch_size, learning_rate)
    try:
        print(rehearsal.report(asyncio.run(_rehearse(AgentSettings.load(config), plan, seed))))
    except (ConfigError, StoreUnavailable, Malformed) as error:
        print(f"edge-agent: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


async def _serve(host: Host[AgentSettings]) -> None:
    settings = host.settings
    task, twin_file = load_task(settings.task), _twin_file(settings)
    mapping = _sensor_map(settings, task)
    site, name, asset, clock = settings.site, settings.name, settings.asset, host.clock
    _make(settings.state_dir)
    async with (
        SqliteRecords(settings.state_dir / "records.sqlite") as records,
        SqliteRecords(settings.state_dir / "latest.sqlite", synchronous="NORMAL") as latest,
        _examples(settings, task) as examples,
        Outbox(settings.state_dir / "outbox.sqlite", settings.outbox_capacity) as outbox,
        Workers() as workers,
        MqttBus(settings.bus.settings(f"agent-{site}-{name}"), status.will(site, name)) as bus,
        _sensors_bus(settings, bus) as sensors,
    ):
        host.metrics.watch_bus(bus.counts)
        model_in_use = await ModelInUse.load(records, settings.state_dir / "models")
        board = StatusBoard(site, name, asset, bus=bus, clock=clock, examples=examples, model_in_use=model_in_use)
        metrics = AgentMetrics(host.metrics)
        host.metrics.watch_link("plant", lambda: bus.connected)
        if sensors is not bus:
            host.metrics.watch_link("sensors", lambda: sensors.connected)
        host.metrics.watch_outbox(lambda: outbox.depth, lambda: outbox.dropped)

        call = maintenance_call(host, bus)

        async def load_twin(asset: str) -> LiveTwin:
            loaded = await LiveTwin.load(
                site,
                asset,
                twin_file.alert,
                outbox,
                call,
                bus=bus,
                clock=clock,
                records=records,
                latest=latest,
                metrics=metrics,
                rate_hz=settings.twin_rate_hz,
            )
            loaded.become(mark_stale(loaded.now, mapping.of_sessions))  # whether they go on is not known yet
            return loaded

        async def load_desk(twin: LiveTwin) -> DesiredDesk:
            actuators = twin_file.actuators(mapping.called(twin.now.asset), own=twin.now.asset == asset)
            return await DesiredDesk.load(
                actuators, twin=twin, bus=bus, machines=sensors, clock=clock, records=records
            )

        twin = await load_twin(asset)
        desired = await load_desk(twin)

        async def judge_in_worker(model: InUse, window: Window) -> dict[str, Judgement]:
            return await workers.run(judge, settings.task, str(model.path), window.values)

        heads = tuple(head.name for head in task.heads)
        watch = await _drift_watch(settings.drift, task, model_in_use, records, workers, twin, metrics)
        inference = Inference(heads, model_in_use, judge_in_worker, twin.diagnosed, watch)
        twinning = Twinning(
            properties=mapping.properties,
            twin=twin,
            windower=Windower(_shape(settings, task)),
            examples=examples,
            inference=inference,
            model_in_use=model_in_use,
            bus=bus,
            clock=clock,
            metrics=metrics,
        )
        further = FurtherTwins(
            settings.max_assets - 1,
            load_twin,
            load_desk,
            properties=mapping.properties,
            bus=bus,
            clock=clock,
            metrics=metrics,
        )
        board.further = lambda: further.assets
        await further.keep([kept for kept in await kept_assets(records, site) if kept != asset])
        hearing = Hearing(mapping, task.heads, asset)
        listening = Listening(asset, mapping, hearing, twinning, further, bus=sensors, clock=clock, metrics=metrics)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(twinning.run(), name="twinning"),
                tasks.create_task(further.run(), name="further twins"),
                tasks.create_task(desired.run(), name="desired"),
                tasks.create_task(listening.subscribe(), name="subscribe to sensors"),
                tasks.create_task(inference.run(), name="inference"),
                tasks.create_task(board.run(), name="status"),
                tasks.create_task(Backfilling(outbox, site, bus=bus, clock=clock).run(), name="backfill"),
            ]
            if watch is not None:
                running.append(tasks.create_task(watch.run(), name="drift"))
            if settings.learns:
                learning = await join(
                    host, records, bus, examples, model_in_use, workers, task, board, inference.recent, watch
                )
                await learning.listen()
                running.append(tasks.create_task(learning.run(), name="learning"))
                if watch is not None:
                    asker = RoundAsker(learning.party.post, watch, examples, model_in_use, metrics)
                    await asker.listen()
                    running.append(tasks.create_task(asker.run(), name="rounds asked for"))
            vitals = Vitals(twin, outbox, model_in_use, bus=bus, clock=clock)
            host.alive = vitals.alive
            host.ready(vitals.line)
            running.append(tasks.create_task(vitals.run(host.status), name="vitals"))
            await host.stopping.wait()
            for one in running:
                one.cancel()


@asynccontextmanager
async def _sensors_bus(settings: AgentSettings, bus: MqttBus) -> AsyncIterator[MqttBus]:
    """Where readings come from: the gateway's own broker, or else the plant's."""
    if settings.sensors_bus is None:
        yield bus
        return
    client_id = f"agent-{settings.site}-{settings.name}-sensors"
    async with MqttBus(settings.sensors_bus.settings(client_id)) as sensors:
        yield sensors


async def _drift_watch(
    section: DriftSection | None,
    task: Task,
    model_in_use: ModelInUse,
    records: SqliteRecords,
    workers: Workers,
    twin: LiveTwin,
    metrics: AgentMetrics,
) -> DriftWatch | None:
    """Watches for drift, where the settings say so."""
    if section is None:
        twin.drifted({})
        return None
    policy = drift_policy(section, tuple(column.name for column in task.inputs))

    async def find_in_worker(series: dict[str, Series], delta: float, grace: int) -> dict[str, tuple[int, int]]:
        return await workers.run(find_changes, series, delta, grace)

    return await DriftWatch.load(
        policy,
        task.inputs,
        find_in_worker,
        model_in_use=model_in_use,
        records=records,
        metrics=metrics,
        tell=twin.drifted,
    )


async def _import(settings: AgentSettings, export: Path) -> tuple[History, int]:
    task = load_task(settings.task)
    history = read_history(export, _sensor_map(settings, task), task.heads, _shape(settings, task))
    _make(settings.state_dir)
    async with _examples(settings, task) as examples:
        return history, await examples.add(history.examples)


async def _rehearse(settings: AgentSettings, plan: TrainingPlan, seed: int) -> rehearsal.Rehearsal:
    task = load_task(settings.task)
    _make(settings.state_dir)
    async with _examples(settings, task) as examples:
        windows = await examples.until(EVER_MS)
    return rehearsal.rehearse(task, windows, plan, seed)


def _examples(settings: AgentSettings, task: Task) -> Examples:
    return Examples(settings.state_dir / "examples.sqlite", task, settings.examples_capacity)


def _shape(settings: AgentSettings, task: Task) -> Shape:
    return Shape(tuple(column.name for column in task.inputs), task.window_s, max_fill=settings.max_fill_s)


def _sensor_map(settings: AgentSettings, task: Task) -> SensorMap:
    file = str(settings.sensors_file)
    mapping = load_sensor_map(_read(settings.sensors_file, "sensors_file"), file)
    check_inputs(mapping, task.inputs, file)
    return mapping


def _twin_file(settings: AgentSettings) -> TwinFile:
    if settings.twin_file is None:
        return TwinFile()
    return load_twin_file(_read(settings.twin_file, "twin_file"), str(settings.twin_file))


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(str(file), key, f"a readable file ({error.strerror})") from error


def _make(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("settings", "state_dir", f"a folder that can be written ({error})") from error


if __name__ == "__main__":
    app()
