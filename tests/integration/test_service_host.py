"""A tiny real service: how it starts, tells, and ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]

SERVICE = """
import asyncio, os, sys, time
from pathlib import Path
from gemel.errors import ConfigError
from gemel.host.service import Host, run
from gemel.host.settings import ServiceSettings
from gemel.host.workers import Workers

async def main(host: Host[ServiceSettings]) -> None:
    what = sys.argv[2]
    if what == "worker":
        async with Workers() as workers:
            print(await workers.run(os.getpid), flush=True)
            host.ready()
            await workers.run(time.sleep, 600)
    if what == "stuck":
        host.alive = lambda: False
    host.ready("as it should be")
    if what == "crash":
        async def crash() -> None:
            raise LookupError("lost the plot")
        host.task_group.create_task(crash())
    if what == "wrong":
        raise ConfigError("trust.json", "quorum", "1 to 3")
    if what == "deaf":
        await asyncio.Event().wait()
    host.task_group.create_task(asyncio.sleep(600))
    await host.stopping.wait()
    host.status("goodbye")

if __name__ == "__main__":
    run("tiny", main, lambda: ServiceSettings.load(Path(sys.argv[1])))
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(SERVICE)
    (tmp_path / "tiny.toml").write_text('state_dir = "state"\nlog_format = "json"\n')
    return path


@asynccontextmanager
async def started(service: Path, what: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(service),
        str(service.with_suffix(".toml")),
        what,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, event: str) -> dict[str, str]:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while True:
            line = await process.stderr.readline()
            assert line, f"ended before it said {event!r}"
            record: dict[str, str] = json.loads(line)
            if record["event"] == event:
                return record


async def ended(process: asyncio.subprocess.Process) -> tuple[int, list[str]]:
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode().splitlines()


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    async def hears(self) -> str:
        return (await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 4096), 20)).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@gemel-test-{os.getpid()}"
    manager = Manager(name.replace("@", "\0"))
    yield manager, name
    manager.close()


async def test_service_tells_the_manager_and_ends_with_0_on_sigterm(
    service: Path, manager: tuple[Manager, str]
) -> None:
    listening, address = manager
    async with started(service, "run", NOTIFY_SOCKET=address, WATCHDOG_USEC="60000000") as process:
        heard = {await listening.hears(), await listening.hears()}
        assert heard == {"READY=1\nSTATUS=as it should be", "WATCHDOG=1"}
        process.terminate()
        assert await listening.hears() == "STOPPING=1"
        assert await listening.hears() == "STATUS=goodbye"
        assert (await ended(process))[0] == 0


async def test_watchdog_is_not_fed_while_the_service_is_stuck(service: Path, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    async with started(service, "stuck", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="20000") as process:
        assert (await manager.hears()).startswith("READY=1")
        await line_with(process, "ready")
        await asyncio.sleep(0.2)
        process.terminate()
        assert await manager.hears() == "STOPPING=1"
    manager.close()


async def test_metrics_are_served_on_the_port_that_the_log_names(service: Path) -> None:
    async with started(service, "run") as process:
        url = (await line_with(process, "ready"))["metrics"]
        text = (await asyncio.to_thread(lambda: urlopen(url).read())).decode()
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 0
    assert re.search(r'gemel_build_info\{service="tiny",version=".+"\} 1\.0', text)
    assert "gemel_loop_lag_seconds_bucket" in text
    assert {line.split()[2][:6] for line in text.splitlines() if line.startswith("# TYPE")} == {"gemel_"}


async def test_crash_of_a_task_is_one_line_and_exit_1(service: Path) -> None:
    async with started(service, "crash") as process:
        code, lines = await ended(process)
    errors = [record for record in map(json.loads, lines) if record["level"] == "error"]
    assert code == 1
    assert [(error["event"], error["error"]) for error in errors] == [("crashed", "LookupError: lost the plot")]
    assert "Traceback" not in "".join(lines)


async def test_crash_shows_its_traceback_at_level_debug(service: Path) -> None:
    async with started(service, "crash", GEMEL_LOG_LEVEL="debug") as process:
        _, lines = await ended(process)
    assert [record["event"] for record in map(json.loads, lines)][-2:] == ["crashed", "traceback"]


async def test_wrong_settings_are_one_line_and_exit_2(service: Path) -> None:
    service.with_suffix(".toml").write_text('stat_dir = "x"\n')
    async with started(service, "run") as process:
        code, lines = await ended(process)
    assert code == 2
    assert lines == [f"tiny: {service.with_suffix('.toml')}: stat_dir: unknown key, did you mean state_dir?"]


async def test_configuration_that_main_finds_wrong_is_one_line_and_exit_2(service: Path) -> None:
    async with started(service, "wrong", GEMEL_LOG_LEVEL="error") as process:
        code, lines = await ended(process)
    assert (code, lines) == (2, ["tiny: trust.json: quorum: 1 to 3"])


async def test_metrics_port_that_is_taken_is_one_line_and_exit_2(service: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with started(service, "run", GEMEL_METRICS_PORT=str(taken.getsockname()[1])) as process:
            code, lines = await ended(process)
    assert code == 2
    assert len(lines) == 1
    assert "metrics_port: a free port" in lines[0]


async def test_second_signal_ends_a_service_that_does_not_listen(service: Path) -> None:
    async with started(service, "deaf") as process:
        await line_with(process, "ready")
        process.terminate()
        await line_with(process, "stopping")
        process.terminate()
        assert (await ended(process))[0] == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_workers_end_with_their_service_however_it_ends(service: Path, how: signal.Signals) -> None:
    async with started(service, "worker") as process:
        assert process.stdout is not None
        worker = int(await asyncio.wait_for(process.stdout.readline(), 20))
        await line_with(process, "ready")
        process.send_signal(how)
        if how is signal.SIGTERM:
            await line_with(process, "stopping")
            process.send_signal(how)
        await ended(process)
    async with asyncio.timeout(10):
        while _lives(worker):  # noqa: ASYNC110  another process's end has no event here
            await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
