"""How every service runs: settings, logs, signals, service manager, metrics, and one place where it all ends.

    run("coordinator", main, lambda: CoordinatorSettings.load(path))

exit 0  SIGTERM or SIGINT, or `main` returned
exit 1  a crash: one line in the log, its traceback at level debug
exit 2  a ConfigError: one line on stderr
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

import structlog
from prometheus_client import start_http_server

from gemel.adapters.clock import SystemClock
from gemel.errors import ConfigError
from gemel.host.logs import configure_logs
from gemel.host.metrics import Metrics
from gemel.host.notify import notify, watchdog_interval_s
from gemel.host.settings import ServiceSettings
from gemel.ports import Clock

S = TypeVar("S", bound=ServiceSettings)

STOP_GRACE_S = 5.0  # for `main` to return after `stopping`; then it is cancelled
LAG_EVERY_S = 0.5

_log = structlog.get_logger("gemel.host")


class _Finished(Exception):
    """`main` has returned: end the tasks that it left in the group."""


@dataclass(slots=True)
class Host(Generic[S]):
    """What a service's `main` gets.

    The manager's watchdog is fed for as long as the event loop turns and `alive` says so. A service whose work may
    stand still while the loop turns sets it: it should prove work, not existence.
    """

    name: str
    settings: S
    metrics: Metrics
    task_group: asyncio.TaskGroup
    clock: Clock = field(default_factory=SystemClock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    metrics_url: str = ""
    alive: Callable[[], bool] = lambda: True

    def ready(self, status: str = "ready") -> None:
        """Local state is loaded and work begins; the broker or chain may still be away."""
        notify(f"READY=1\nSTATUS={status}")
        _log.info("ready", status=status, metrics=self.metrics_url)

    def status(self, text: str) -> None:
        """One line for `systemctl status`: link, round, outbox."""
        notify(f"STATUS={text}")


def run(name: str, main: Callable[[Host[S]], Awaitable[None]], load: Callable[[], S]) -> NoReturn:
    """Run a service to its end and exit the process. `load` reads the settings; `main` runs until `host.stopping`.

    `main` may start tasks in `host.task_group`: their crash is the service's, and they end when `main` returns.
    """
    sys.exit(_run(name, main, load))


def run_configured(name: str, main: Callable[[Host[S]], Awaitable[None]], settings: type[S]) -> NoReturn:
    """`run` for a service that is started as `python -m SERVICE --config FILE`."""
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--config", type=Path, required=True, help="the service's TOML file")
    file = parser.parse_args().config
    run(name, main, lambda: settings.load(file))


def _run(name: str, main: Callable[[Host[S]], Awaitable[None]], load: Callable[[], S]) -> int:
    try:
        settings = load()
        configure_logs(name, settings.log_format, settings.log_level)
        asyncio.run(_serve(name, main, settings))
    except Exception as error:  # noqa: BLE001  the one place where everything ends
        causes = list(_leaves(error))
        wrong = [cause for cause in causes if isinstance(cause, ConfigError)]
        for line in wrong:
            print(f"{name}: {line}", file=sys.stderr)
        if wrong:
            return 2
        for cause in causes:
            _log.error("crashed", error=f"{type(cause).__name__}: {cause}")
            _log.debug("traceback", exc_info=cause)
        return 1
    return 0


async def _serve(name: str, main: Callable[[Host[S]], Awaitable[None]], settings: S) -> None:
    metrics = Metrics(name)
    with _metrics_endpoint(metrics, settings) as url:
        host = Host(name, settings, metrics, asyncio.TaskGroup(), metrics_url=url)
        service = asyncio.create_task(_in_group(host, main), name=name)
        lag = asyncio.create_task(_measure_lag(metrics), name="loop lag")
        watchdog = asyncio.create_task(_feed_watchdog(host), name="watchdog")
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if host.stopping.is_set():  # asked twice: at once
                service.cancel()
                return
            notify("STOPPING=1")
            _log.info("stopping")
            host.stopping.set()
            loop.call_later(STOP_GRACE_S, service.cancel)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        try:
            await service
        except asyncio.CancelledError:
            if not host.stopping.is_set():
                raise
        finally:
            lag.cancel()
            watchdog.cancel()


async def _in_group(host: Host[S], main: Callable[[Host[S]], Awaitable[None]]) -> None:
    async def to_the_end() -> NoReturn:
        await main(host)
        raise _Finished

    try:
        async with host.task_group:
            await to_the_end()
    except* _Finished:
        pass


async def _measure_lag(metrics: Metrics) -> None:
    now_s = asyncio.get_running_loop().time
    while True:
        due_s = now_s() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.loop_lag_s.observe(max(0.0, now_s() - due_s))


async def _feed_watchdog(host: Host[S]) -> None:
    every_s = watchdog_interval_s()
    while every_s is not None:
        if host.alive():
            notify("WATCHDOG=1")
        await asyncio.sleep(every_s)


@contextmanager
def _metrics_endpoint(metrics: Metrics, settings: ServiceSettings) -> Iterator[str]:
    """Serve /metrics from a thread; yields its url."""
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ConfigError(
            "settings", "metrics_port", f"a free port, which {where} is not ({error.strerror})"
        ) from error
    try:
        yield f"http://{settings.metrics_host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, groups within it opened."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
