"""The embedded chain as a process: killed, ended, asked over WebSocket; and followers that live through it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from gemel.ports import ChainEvent, Role, Sent
from gemel.wire.identity import Identity
from tests.support.chains import (
    CHAIN_ID,
    FUNDED,
    REPOSITORY,
    Fleet,
    RunningChain,
    open_fleet,
    party,
    proof_of,
    running_chain,
    start_embedded,
)
from tests.support.parties import identity


async def restart(chain: RunningChain, folder: Path) -> None:
    """kill -9, and the same chain again on the same port."""
    await chain.kill()
    again = await start_embedded(folder / "chain.db", FUNDED, int(chain.url.rsplit(":", 1)[1]))
    chain.process = again.process


async def enter(fleet: Fleet, who: Identity) -> Sent:
    record = party(who, Role.AGENT)
    return await fleet.operator.register(record, proof_of(who, record, fleet.place))


async def test_kill_loses_no_acknowledged_transaction_and_followers_neither_miss_nor_repeat(tmp_path: Path) -> None:
    found: list[ChainEvent] = []
    async with running_chain(tmp_path, FUNDED) as chain, open_fleet(chain) as fleet:

        async def follow(events: int) -> None:
            """Until so many are found; every second time the follower itself is dropped in between."""
            async with aclosing(fleet.coordinator.events(tmp_path / "events.db")) as stream:
                async for event in stream:
                    if not found or event.id != found[-1].id:  # the one that was not finished comes again
                        found.append(event)
                    if len(found) >= events:
                        return

        sent = []
        async with asyncio.timeout(60):
            for attempt in range(2):
                following = asyncio.create_task(follow(len(found) + 3))
                for number in range(4):
                    who = identity(2000 + 10 * attempt + number)
                    sent.append(await enter(fleet, who))
                await restart(chain, tmp_path)
                await following
            last = await enter(fleet, identity(3000))
            while found[-1].transaction != last.transaction:
                await follow(len(found) + 1)

        assert len({event.id for event in found}) == len(found)
        assert [e.transaction for e in found if e.transaction in {s.transaction for s in sent}] == [
            each.transaction for each in sent
        ]
        assert len(await fleet.operator.parties()) == 6 + 9
        blocks = [await chain.rpc("eth_getBlockByNumber", hex(n), False) for n in range(last.block + 1)]
        assert all(block["parentHash"] == before["hash"] for before, block in pairwise(blocks))


async def test_terminated_chain_ends_with_status_zero_while_somebody_is_subscribed(tmp_path: Path) -> None:
    async with (
        running_chain(tmp_path, FUNDED) as chain,
        aiohttp.ClientSession() as session,
        session.ws_connect(chain.url) as socket,
    ):
        await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
        await socket.receive_json(timeout=10)
        chain.process.terminate()
        assert await asyncio.wait_for(chain.process.wait(), 10) == 0
        assert (await socket.receive(timeout=10)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_subscriber_hears_of_every_new_head_until_it_unsubscribes(tmp_path: Path) -> None:
    async with (
        running_chain(tmp_path, FUNDED) as chain,
        aiohttp.ClientSession() as session,
        session.ws_connect(chain.url) as socket,
    ):

        async def ask(method: str, *parameters: object) -> dict[str, object]:
            await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})
            return await socket.receive_json(timeout=10)

        assert (await ask("eth_chainId"))["result"] == hex(CHAIN_ID)
        assert (await ask("eth_subscribe", "logs"))["error"]["code"] == -32602
        assert (await ask("eth_unsubscribe"))["error"]["code"] == -32602
        assert (await ask("eth_unsubscribe", "0x99"))["result"] is False
        subscription = (await ask("eth_subscribe", "newHeads"))["result"]
        async with open_fleet(chain):
            last = int(str(await chain.rpc("eth_blockNumber")), 16)
        heads = [(await socket.receive_json(timeout=10))["params"] for _ in range(last)]
        assert {head["subscription"] for head in heads} == {subscription}
        assert [int(head["result"]["number"], 16) for head in heads] == list(range(1, last + 1))
        assert (await ask("eth_unsubscribe", subscription))["result"] is True
        await socket.send_str("{")
        assert (await socket.receive_json(timeout=10))["error"]["code"] == -32700


async def test_batch_is_answered_in_order(tmp_path: Path) -> None:
    async with running_chain(tmp_path, FUNDED) as chain, aiohttp.ClientSession() as session:
        batch = [
            {"id": n, "method": method} for n, method in enumerate(["eth_chainId", "eth_nothing", "net_version"])
        ]
        async with session.post(chain.url, json=batch) as response:
            answers = await response.json()
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert answers[1]["error"]["code"] == -32601


async def test_second_process_on_the_same_file_is_turned_away(tmp_path: Path) -> None:
    async with running_chain(tmp_path, FUNDED):
        second = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "gemel.embedded.chain", "--db", str(tmp_path / "chain.db"), "--port", "0"],
            stderr=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
        )
        _, said = await asyncio.wait_for(second.communicate(), 20)
    assert second.returncode == 1
    assert said.decode().count("\n") == 1
    assert "no other process uses" in said.decode()


@pytest.mark.parametrize("wrong", [["--alloc", "0x12"], ["--port", "many"], []])
def test_wrong_arguments_are_named(wrong: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gemel.embedded.chain", *wrong], capture_output=True, cwd=REPOSITORY, check=False
    )
    assert ended.returncode == 2
    assert (wrong or ["--db"])[0].encode() in ended.stderr
