"""The embedded broker as a process."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from contextlib import closing

import pytest

from gemel.embedded.broker import embedded_broker
from gemel.errors import ConfigError
from tests.support.ports import free_port


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until_silent(port: int) -> None:
    async with asyncio.timeout(10):
        while answers(port):  # noqa: ASYNC110  another process's end has no event here
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_command_says_when_it_is_ready_and_leaves_nothing_behind(how: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gemel.embedded.broker", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    found = re.fullmatch(r"ready mqtt://127\.0\.0\.1:(\d+)\n", line)
    assert found is not None
    port = int(found[1])
    assert answers(port)
    process.send_signal(how)
    assert await asyncio.wait_for(process.wait(), 10) == (-9 if how is signal.SIGKILL else 0)
    await until_silent(port)


async def test_broker_runs_on_the_port_it_was_given_and_frees_it() -> None:
    port = free_port()
    async with embedded_broker(port) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        assert broker.running
    assert not broker.running
    assert not answers(port)


async def test_port_that_is_taken_is_a_configuration_error() -> None:
    async with embedded_broker() as broker:
        with pytest.raises(ConfigError, match="broker: port"):
            async with embedded_broker(broker.port):
                pass
