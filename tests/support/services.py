"""Real service processes for tests: started from a TOML file, killed and started again, never left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from gemel.learning.tasks.hydraulic import INPUTS
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parents[2]
READY_S = 60


class Service:
    """One process. `log` is what it said so far; once that holds `ready_words`, messages to it are not lost."""

    ready_words = "ready "

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self._command, self._log = [sys.executable, "-m", module, *arguments], log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        before = self.log.count(self.ready_words) if self._log.exists() else 0
        with self._log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=REPOSITORY, stdout=log, stderr=asyncio.subprocess.STDOUT
            )
        async with asyncio.timeout(READY_S):
            while self.log.count(self.ready_words) == before:
                assert self._process.returncode is None, self.log
                await asyncio.sleep(0.02)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Running for as long as the block lasts; started again within it is fine. Fails if it crashed."""
    await service.start()
    try:
        yield service
    finally:
        code = await service.stop()
    assert code == 0, service.log


class Agent(Service):
    """An edge agent of `asset` that hears plant/<asset>/#. `settings` go into its TOML file."""

    ready_words = "hearing sensors"

    def __init__(
        self, folder: Path, broker: str, asset: str, *, stale_after_s: float = 3600, **settings: str
    ) -> None:
        folder = folder / asset
        folder.mkdir(parents=True)
        self.asset, self.state_dir, self.config = asset, folder / "state", folder / "agent.toml"
        self.metrics_port = free_port()
        sensors = folder / "sensors.toml"
        sensors.write_text(
            f'subscribe = ["plant/{asset}/#"]\n[[source]]\ntopic = "plant/{asset}/sensors"\n'
            + "".join(
                f'[source.properties.{column.name}]\nunit = "{column.unit}"\nminimum = -1000\nmaximum = 1000\n'
                f"stale_after_s = {stale_after_s}\n"
                for column in INPUTS
            )
            + f'[inspection]\ntopic = "plant/{asset}/inspection"\n'
        )
        keys = {
            "state_dir": self.state_dir,
            "site": "north",
            "name": f"{asset}-gateway",
            "asset": asset,
            "sensors_file": sensors,
            "log_level": "debug",
        } | settings
        lines = [f'{key} = "{value}"' for key, value in keys.items()]
        lines += [f"metrics_port = {self.metrics_port}", "twin_rate_hz = 50", "[bus]", f'url = "{broker}"']
        self.config.write_text("\n".join(lines) + "\n")
        super().__init__("edge_agent", ["run", "--config", str(self.config)], folder / "log.txt")

    async def metric(self, sample: str) -> float:
        """The value of a sample such as `gemel_readings_total{outcome="accepted",reason=""}`."""
        return await scrape(self.metrics_port, sample)


class Registry(Service):
    """A twin registry."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.metrics_port, self.api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.api_port}"
        config = folder / "registry.toml"
        config.write_text(
            f'state_dir = "{folder / "registry"}"\nmetrics_port = {self.metrics_port}\n'
            f'api_port = {self.api_port}\n[bus]\nurl = "{broker}"\n'
        )
        super().__init__("twin_registry", ["--config", str(config)], folder / "registry.log")


async def scrape(port: int, sample: str) -> float:
    """One sample from a metrics endpoint; 0 where it is not there."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
    return 0.0
