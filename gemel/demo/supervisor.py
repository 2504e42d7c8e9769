"""Starts the whole plant, watches it through to the last round, and leaves nothing behind but what it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from gemel.adapters import key_files
from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.clock import SystemClock
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_node import EvmNode
from gemel.adapters.key_files import Keys
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.secret_files import erase
from gemel.console.exporting import write_export
from gemel.console.fleet_files import read_place, sealing_key_files
from gemel.console.founding import create_keys, found
from gemel.demo.children import Children
from gemel.demo.configuring import configure
from gemel.demo.dealing import Deal, deal
from gemel.demo.plan import CHAIN_ID, POLICY, TASK, TASK_PATH, VALIDATORS, DemoPlan, Layout
from gemel.demo.progress import Progress
from gemel.demo.replay import ReplayPlan
from gemel.demo.report.baselines import Baselines, compute
from gemel.demo.report.evidence import read_model
from gemel.demo.sabotage import ROUND_VARIABLE
from gemel.errors import GemelError
from gemel.host.workers import Workers
from gemel.wire import topics
from gemel.wire.trust import Trust

SPEED = 60.0  # seconds of rig time in a second, for each rig
SETTLE_S = 60.0  # for the last diagnoses and the end of the replay, after the last round
ENDING = {"replay": 0}  # processes that may end, and how


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave, for the report."""

    deal: Deal
    keys: Mapping[str, Keys]
    progress: Progress
    baselines: Baselines | None
    duration_s: float


class Plant:
    """One run of the demo plant in one directory. `workers` compute the report's baselines while the rounds go on."""

    def __init__(self, plan: DemoPlan, layout: Layout, console: Console, workers: Workers) -> None:
        self._plan, self._layout, self._workers = plan, layout, workers
        self._progress = Progress(console, TASK)
        self._children = Children(layout.logs)
        self._m0_stands = asyncio.Event()

    async def run(self, *, hold: bool) -> Outcome:
        """Start, watch, stop. Raises ChildDied if a process ends by itself, ConfigError, ChainReverted.

        However it ends, the directory then holds no sealing key: a round broken off leaves its frames there.
        """
        try:
            return await self._run(hold=hold)
        finally:
            for path in sealing_key_files(self._layout.state("custodian")):
                erase(path)

    async def _run(self, *, hold: bool) -> Outcome:
        began = time.monotonic()
        async with self._children:
            broker_url = self._plan.broker or await self._start_broker()
            keys, place = await self._found()
            dealt = await asyncio.to_thread(deal, self._plan, self._layout, SystemClock().now_ms())
            files = await asyncio.to_thread(configure, self._plan, self._layout, broker_url, place, dealt.poisoner)
            self._progress.say(f"{len(dealt.histories)} gateways import what their historians have")
            await self._import_histories(dealt, files)
            await self._start_services(files, dealt.poisoner)
            comparing = asyncio.create_task(self._compare(dealt), name="baselines")
            try:
                await self._watch(dealt, broker_url, place, hold=hold)
                await write_export(self._layout.root)
            except BaseException:
                comparing.cancel()
                raise
        duration_s = time.monotonic() - began
        return Outcome(dealt, keys, self._progress, await comparing, duration_s)

    # --- starting -------------------------------------------------------------------------------------

    async def _start_broker(self) -> str:
        broker = await self._children.start("broker", "gemel.embedded.broker", ["--port", "0"], foundation=True)
        url = await self._children.ready_line(broker)
        self._progress.say(f"broker at {url}")
        return url

    async def _found(self) -> tuple[Mapping[str, Keys], ChainPlace]:
        """A chain, if none was given, with the contracts on it and everybody registered."""
        keys = create_keys(self._layout.root, self._plan.fleet("http://127.0.0.1", CHAIN_ID))
        rpc_url, chain_id = self._plan.rpc, CHAIN_ID
        if rpc_url is None:
            funded = ",".join(k.identity.address for k in keys.values())
            arguments = ["--db", str(self._layout.root / "chain.sqlite"), "--port", "0"]
            arguments += ["--chain-id", str(CHAIN_ID), "--alloc", funded]
            chain = await self._children.start("chain", "gemel.embedded.chain", arguments, foundation=True)
            rpc_url = await self._children.ready_line(chain)
        else:
            async with EvmNode(rpc_url) as node:
                chain_id = await node.chain_id()
        self._progress.say(f"chain {chain_id} at {rpc_url}")
        trust: Trust = await found(
            self._layout.root,
            self._plan.fleet(rpc_url, chain_id),
            keys,
            funder=None if self._plan.funder is None else key_files.load(self._plan.funder).identity,
            rounds=1 + self._plan.rounds,  # M0's, too
        )
        parties = len(trust.validators) + len(trust.custodians) + 2 + self._plan.agents
        self._progress.say(f"contracts deployed at {trust.registry}, {parties} parties registered")
        return keys, read_place(self._layout.root)

    async def _import_histories(self, dealt: Deal, files: Mapping[str, Path]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, folder in dealt.histories.items():
                arguments = ["import-history", "--config", str(files[name]), str(folder)]
                tasks.create_task(self._children.run_to_end(f"{name}-import", "edge_agent", arguments))

    async def _start_services(self, files: Mapping[str, Path], poisoner: str | None) -> None:
        async def start(name: str, module: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
            arguments = [*command, "--config", str(files[name])]
            await self._children.start(name, module, arguments, environment=environment)

        await start("twin-registry", "twin_registry")
        custodians = [name for name in files if name.startswith("custodian")]
        for name in custodians:
            await start(name, "custodian")
        for number in range(1, VALIDATORS + 1):
            await start(f"validator-{number}", "validator")
        await start("listener", "chain_listener")
        await start("coordinator", "coordinator")
        for name in self._plan.agent_names:
            environment = {ROUND_VARIABLE: str(self._plan.poisoned_round)} if name == poisoner else None
            await start(name, "edge_agent", "run", environment=environment)
        self._progress.say(
            f"{3 + len(custodians) + VALIDATORS + self._plan.agents} services started; logs in {self._layout.logs}"
        )

    # --- watching -------------------------------------------------------------------------------------

    async def _watch(self, dealt: Deal, broker_url: str, place: ChainPlace, *, hold: bool) -> None:
        dying = asyncio.create_task(self._children.first_death(ENDING), name="deaths")
        running = asyncio.create_task(self._until_done(dealt, broker_url, place, hold=hold), name="plant")
        done, _ = await asyncio.wait({dying, running}, return_when=asyncio.FIRST_COMPLETED)
        for task in {dying, running} - done:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for task in done:
            task.result()

    async def _until_done(self, dealt: Deal, broker_url: str, place: ChainPlace, *, hold: bool) -> None:
        progress = self._progress
        async with (
            MqttBus(BusSettings(url=broker_url, client_id="demo", session_expiry_s=0)) as bus,
            EvmChain(place, None) as chain,
        ):
            await bus.subscribe(topics.ALL_AGENT_STATUS, progress.on_status)
            await bus.subscribe(topics.ALL_TWINS, progress.on_twin)
            following = asyncio.create_task(self._follow(chain), name="progress")
            try:
                await self._deployed(0, following)
                self._m0_stands.set()
                replay = await self._start_replay(dealt, broker_url)
                for round_ in range(1, self._plan.rounds + 1):
                    await self._final(round_, following)
                await self._settle(replay)
                if hold:
                    progress.say("[bold]held[/]: the plant runs on until Ctrl-C")
                    await asyncio.Event().wait()
            finally:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following

    async def _follow(self, chain: EvmChain) -> None:
        async for event in chain.events(self._layout.root / "progress.sqlite"):
            await self._progress.on_event(event)

    async def _compare(self, dealt: Deal) -> Baselines | None:
        """What as many rounds' training gives without federation, from the plant's own M0, beside the rounds."""
        await self._m0_stands.wait()
        m0 = await asyncio.to_thread(read_model, self._layout.root, self._progress.approved[0])
        if m0 is None:
            return None  # the report says that it is missing
        return await self._workers.run(
            compute,
            TASK_PATH,
            m0,
            dealt.gateways,
            dealt.validation,
            dealt.report,
            POLICY.training,
            rounds=self._plan.rounds,
            seed=self._plan.seed,
        )

    async def _start_replay(self, dealt: Deal, broker_url: str) -> asyncio.subprocess.Process:
        plan = ReplayPlan(broker=broker_url, feeds=dealt.feeds, speed=SPEED)
        path = self._layout.data / "replay.json"
        path.write_bytes(msgspec.json.encode(plan))
        child = await self._children.start("replay", "gemel.demo.replay", [str(path)])
        self._progress.say(f"{len(dealt.feeds)} rigs go live, {SPEED:.0f} times as fast as real ones")
        return child.process

    async def _final(self, round_: int, following: asyncio.Task[None]) -> None:
        while round_ not in self._progress.final:
            if following.done():
                following.result()
            await asyncio.sleep(0.1)

    async def _deployed(self, round_: int, following: asyncio.Task[None]) -> None:
        await self._final(round_, following)
        if self._progress.final[round_] != "deployed":
            raise GemelError(f"M0 was not deployed: {self._progress.final[round_]}")

    async def _settle(self, replay: asyncio.subprocess.Process) -> None:
        """The replay has ended, and every twin shows a diagnosis by the last deployed model."""
        progress = self._progress
        try:
            async with asyncio.timeout(SETTLE_S):
                await replay.wait()
                while True:
                    current = [asset for asset, n in progress.diagnosed.items() if n == progress.deployment]
                    if len(current) == self._plan.agents:
                        break
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise GemelError(f"not every twin shows the last model's diagnosis: {progress.diagnosed}") from None
        progress.say(f"all {self._plan.agents} twins carry diagnoses by deployment {progress.deployment}")
