"""The twin registry's process. All wiring is here.

python -m twin_registry --config registry.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import structlog
import typer
from aiohttp import web

from gemel.adapters.mqtt_bus import MqttBus
from gemel.adapters.registry_stores import open_stores
from gemel.adapters.sql_twins import Keep
from gemel.errors import ConfigError
from gemel.host.service import Host, run
from twin_registry.api import make_app
from twin_registry.keeping import Keeper
from twin_registry.settings import RegistrySettings

_log = structlog.get_logger("gemel.registry")


def main(config: Annotated[Path, typer.Option(help="The registry's TOML file.", dir_okay=False)]) -> None:
    """Keep every twin of the plant and its history, and serve them over HTTP."""
    run("twin-registry", _serve, lambda: RegistrySettings.load(config))


async def _serve(host: Host[RegistrySettings]) -> None:
    settings = host.settings
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("settings", "state_dir", f"a folder that can be written ({error})") from error
    keep = Keep(machines=settings.max_machines, revisions=settings.max_revisions)
    async with (
        open_stores(f"sqlite:///{settings.state_dir}/twins.sqlite", keep) as stores,
        MqttBus(settings.bus.settings("twin-registry")) as bus,
    ):
        host.metrics.watch_bus(bus.counts)
        runner = web.AppRunner(make_app(stores.twins), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.api_host, settings.api_port)
            try:
                await site.start()
            except OSError as error:
                where = f"{settings.api_host}:{settings.api_port}"
                raise ConfigError("settings", "api_port", f"a free port, which {where} is not ({error})") from error
            _log.info("serving", api=f"http://{settings.api_host}:{runner.addresses[0][1]}")
            await Keeper(stores.twins, host.clock, host.metrics.registry_messages).subscribe(bus)
            host.ready()
            await host.stopping.wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    typer.run(main)
