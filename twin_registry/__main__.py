"""The twin registry's process. All wiring is here.

python -m twin_registry --config registry.toml
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer

from gemel.adapters import key_files
from gemel.adapters.mqtt_bus import MqttBus
from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.adapters.sql import Commit
from gemel.errors import ConfigError
from gemel.host.metrics import Metrics
from gemel.host.service import Host, run
from twin_registry import access_log
from twin_registry.answering import Answerer
from twin_registry.api import make_app
from twin_registry.keeping import Keeper
from twin_registry.serving import served
from twin_registry.settings import RegistrySettings
from twin_registry.tokens import Tokens

STUCK_S = 20.0  # a change that waits longer is not committed any more, and the watchdog (30 s) starts us again
REPORT_S = 30.0
_DAY_MS = 86_400_000
_log = structlog.get_logger("gemel.registry")


def main(config: Annotated[Path, typer.Option(help="The registry's TOML file.", dir_okay=False)]) -> None:
    """Keep every twin of the plant and its history, and serve them over HTTP and over the bus."""
    run("twin-registry", _serve, lambda: RegistrySettings.load(config))


async def _serve(host: Host[RegistrySettings]) -> None:
    settings = host.settings
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("settings", "state_dir", f"a folder that can be written ({error})") from error
    tokens = _tokens(settings)
    url = settings.store_url or f"sqlite:///{settings.state_dir}/twins.sqlite"
    async with (
        open_stores(url, settings.kept(), _telling(host.metrics)) as stores,
        MqttBus(settings.bus.settings("twin-registry")) as bus,
    ):
        host.metrics.watch_bus(bus.counts)
        host.metrics.registry_waiting_s.set_function(lambda: stores.commits.waiting_s)
        host.alive = lambda: stores.commits.waiting_s < STUCK_S
        app = make_app(
            stores.twins,
            stores.assets,
            stores.accesses,
            host.clock,
            tokens,
            broker=settings.public_broker or settings.bus.url,
            live_readers=host.metrics.registry_live_readers,
        )
        tls = settings.tls()
        async with served(app, settings.api_host, settings.api_port, tls) as port:
            scheme = "http" if tls is None else "https"
            _log.info("serving", api=f"{scheme}://{settings.api_host}:{port}", tokens=tokens is not None)
            await Keeper(stores.twins, host.clock, host.metrics.registry_messages).subscribe(bus)
            await Answerer(app, bus).subscribe()
            host.task_group.create_task(_tidy_for_ever(host, stores), name="tidy")
            host.task_group.create_task(_seal_for_ever(host, stores), name="seal")
            host.task_group.create_task(_report_for_ever(host, stores, bus), name="report")
            host.ready()
            await host.stopping.wait()


def _tokens(settings: RegistrySettings) -> Tokens | None:
    loopback = _is_loopback(settings.api_host)
    if settings.tokens_file is not None:
        if not loopback and settings.tls() is None:
            _log.warning("no api_cert_file: tokens travel in the clear", api_host=settings.api_host)
        return Tokens.load(key_files.find(settings.tokens_file, os.environ))
    if not loopback:
        raise ConfigError("settings", "tokens_file", f"required where api_host ({settings.api_host}) is not loopback")
    _log.warning("no tokens_file: anybody on this machine may read every twin", api_host=settings.api_host)
    return None


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _telling(metrics: Metrics) -> Callable[[Commit], None]:
    """What Prometheus hears of every commit."""
    took_s, waited_s = metrics.registry_commit_s, metrics.registry_commit_wait_s
    changes, rows = metrics.registry_commit_changes, metrics.registry_rows

    def tell(commit: Commit) -> None:
        took_s.observe(commit.took_s)
        waited_s.observe(commit.waited_s)
        changes.observe(commit.changes)
        rows.inc(commit.rows)

    return tell


async def _report_for_ever(host: Host[RegistrySettings], stores: RegistryStores, bus: MqttBus) -> None:
    while True:
        twins = len(await stores.twins.twins())
        host.status(f"{twins} twins; broker {'linked' if bus.connected else 'away'}")
        await asyncio.sleep(REPORT_S)


async def _tidy_for_ever(host: Host[RegistrySettings], stores: RegistryStores) -> None:
    while True:
        await asyncio.sleep(host.settings.tidy_s)
        now_ms = host.clock.now_ms()
        await stores.twins.tidy(now_ms)
        await stores.accesses.drop_accesses(now_ms - round(host.settings.keep.accesses_days * _DAY_MS))


async def _seal_for_ever(host: Host[RegistrySettings], stores: RegistryStores) -> None:
    while True:
        await asyncio.sleep(host.settings.access_root_s)
        while (root := await access_log.seal(stores.accesses, host.clock.now_ms())) is not None:
            _log.info("reads sealed", first=root.first, last=root.last, root=root.root)


if __name__ == "__main__":
    typer.run(main)
