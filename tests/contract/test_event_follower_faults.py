"""The event follower before a node that lies, lags, goes away or is another chain: real, behind a bad server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gemel.adapters.contract_abi import Values, load
from gemel.adapters.event_follower import Follower
from gemel.adapters.evm_node import EvmNode, Log, Patience
from gemel.adapters.evm_transactions import Sender
from gemel.embedded.chain.server import serving
from gemel.ports import ChainEvent
from gemel.wire.types import Address
from tests.support.chains import CHAIN_ID, FUNDED, OPERATOR
from tests.support.faulty_nodes import Fault, FaultyNode, Forward, answer, instead, spoiled

TOKEN = load("StakeToken")
IMPATIENT = Patience(request_s=0.3, give_up_s=0.05, first_pause_s=0.01)
LOGGER = "gemel.adapters.event_follower"


def decode(log: Log) -> tuple[str, Values] | None:
    entry = TOKEN.events[log.topics[0]]
    return entry.name, entry.decode_log(log.topics, log.data)


class Plant:
    """A token on the embedded chain, which a FaultyNode stands before."""

    def __init__(self, faulty: FaultyNode, sender: Sender, token: Address) -> None:
        self.faulty, self._sender, self.token = faulty, sender, token

    async def transfer(self, amount: int) -> None:
        data = TOKEN.functions["transfer"].encode("0x" + "22" * 20, amount)
        await self._sender.send("transfer", self.token, data)


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    funded = [bytes.fromhex(address[2:]) for address in FUNDED]
    async with serving(tmp_path / "chain.db", port=0, chain_id=CHAIN_ID, funded=funded) as port:
        url = f"http://127.0.0.1:{port}"
        async with EvmNode(url) as node, FaultyNode(url).serving() as faulty:
            sender = Sender(node, OPERATOR, CHAIN_ID)
            created = await sender.send("deploy", None, TOKEN.deployment([OPERATOR.address], [1000]))
            assert created.created is not None
            yield Plant(faulty, sender, created.created)


@pytest.fixture
async def events(plant: Plant, tmp_path: Path) -> AsyncIterator[AsyncIterator[ChainEvent]]:
    """Followed up to the token's founding, over HTTP alone."""
    async with EvmNode(plant.faulty.url, IMPATIENT) as node, asyncio.timeout(30):
        follower = Follower(node, (plant.token,), poll_s=0.01, decode=decode, ws_url="")
        async with aclosing(follower.events(tmp_path / "events.db")) as stream:
            assert (await anext(stream)).values["value"] == 1000
            yield stream


async def said(caplog: pytest.LogCaptureFixture, beginning: str) -> str:
    """The line that says so, once it is there."""
    while True:
        for record in caplog.records:
            if record.message.startswith(beginning):
                return record.message
        await asyncio.sleep(0.01)


async def outlasts(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture, method: str, fault: Fault
) -> str:
    """With the fault nothing comes, and one line says why; without it everything does, once. Returns the line."""
    caplog.set_level("INFO", logger=LOGGER)
    plant.faulty.faults[method] = fault
    await plant.transfer(1)
    waiting = asyncio.ensure_future(anext(events))
    line = await said(caplog, "events wait: ")
    seen = len(plant.faulty.asked)
    while len(plant.faulty.asked) < seen + 10:  # noqa: ASYNC110  it keeps asking, and says no more
        await asyncio.sleep(0.01)
    assert not waiting.done()
    del plant.faulty.faults[method]
    assert (await waiting).values["value"] == 1
    await plant.transfer(2)
    assert (await anext(events)).values["value"] == 2
    assert [record.message for record in caplog.records if record.name == LOGGER] == [line, "events go on"]
    return line


def _with(**fields: object) -> Any:
    return lambda logs: [{**log, **fields} for log in logs]


def _without(field: str) -> Any:
    return lambda logs: [{key: value for key, value in log.items() if key != field} for log in logs]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda logs: [{**log, "topics": log["topics"][:2]} for log in logs], "2 topics, 3 expected"),
        (lambda logs: [{**log, "topics": [*log["topics"], *log["topics"]]} for log in logs], "topics that are none"),
        (lambda logs: [{**log, "topics": ["0x12"]} for log in logs], "topics that are none"),
        (_with(data="0x1234"), "malformed Transfer"),
        (_with(data="0x"), "malformed Transfer"),
        (_with(address="0x" + "99" * 20), "which was not asked for"),
        (_with(blockHash="0x" + "99" * 32), "is of block"),
        (_with(blockNumber="0x99"), "is of block 153"),
    ],
)
async def test_log_that_cannot_be_ours_is_named_and_waited_out(
    plant: Plant,
    events: AsyncIterator[ChainEvent],
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
    words: str,
) -> None:
    transactions: list[str] = []

    def change(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        transactions.extend(log["transactionHash"][2:] for log in logs)
        return spoil(logs)  # type: ignore[no-any-return]

    line = await outlasts(plant, events, caplog, "eth_getLogs", spoiled(change))
    assert words in line
    assert "log 0 of transaction " + transactions[0] in line


@pytest.mark.parametrize(
    "spoil",
    [
        _with(data="zebra"),
        _with(topics="zebra"),
        _with(topics=[None]),
        _with(address="0x12"),
        _with(transactionHash=None),
        _without("blockNumber"),
        lambda logs: ["zebra" for _ in logs],
        lambda _: None,
        lambda _: {"zebra": 1},
    ],
)
async def test_answer_that_is_no_list_of_logs_is_waited_out(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    line = await outlasts(plant, events, caplog, "eth_getLogs", spoiled(spoil))
    assert "nonsense" in line


@pytest.mark.parametrize("spoil", [{"number": "zebra"}, {"hash": "0x12"}, {"parentHash": None}, {"timestamp": []}])
async def test_header_that_is_none_is_waited_out(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture, spoil: dict[str, object]
) -> None:
    fault = spoiled(lambda block: {**block, **spoil})
    assert "nonsense" in await outlasts(plant, events, caplog, "eth_getBlockByNumber", fault)


async def _silence(*_: object) -> web.Response:
    await asyncio.sleep(0.6)
    return web.Response()


@pytest.mark.parametrize(
    "fault",
    [
        instead(lambda: web.Response(status=502)),
        instead(lambda: web.Response(status=429, text="slow down")),
        instead(lambda: web.Response(text="<html>down for maintenance</html>", content_type="text/html")),
        instead(lambda: web.Response(body=b"\xff\xfe\x00", content_type="application/json")),
        instead(lambda: web.Response(text="[" * 100_000, content_type="application/json")),
        instead(lambda: web.json_response({"jsonrpc": "2.0", "id": 0, "error": "zebra"})),
        instead(lambda: web.json_response({"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": "no"}})),
        _silence,
    ],
    ids=["5xx", "429", "html", "no text", "nested", "error of no form", "error", "silence"],
)
async def test_node_that_is_away_or_answers_garbage_is_waited_out(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    await outlasts(plant, events, caplog, "*", fault)


async def test_foreign_chain_id_after_the_start_is_waited_out(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture
) -> None:
    line = await outlasts(plant, events, caplog, "eth_chainId", instead(lambda: answer("0x5")))
    assert "on another chain now: 5:" in line


async def test_head_that_goes_backwards_is_waited_out_and_nothing_is_retracted(
    plant: Plant, events: AsyncIterator[ChainEvent], caplog: pytest.LogCaptureFixture
) -> None:
    async with ClientSession() as session:
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", False]}
        async with session.post(plant.faulty.target, json=request) as found:
            old = (await found.json())["result"]
    await plant.transfer(5)
    assert (await anext(events)).values["value"] == 5

    async def lagging(forward: Forward, parameters: Sequence[Any]) -> web.Response:
        at = parameters[0]
        return answer(old if at == "latest" else None if int(at, 16) > 1 else (await forward())["result"])

    line = await outlasts(plant, events, caplog, "eth_getBlockByNumber", lagging)
    assert "is behind: at block 1, followed so far: 2" in line


async def test_answer_that_never_ends_is_cut_off(
    plant: Plant,
    events: AsyncIterator[ChainEvent],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemel.adapters.evm_node.ANSWER_LIMIT_BYTES", 10_000)
    fault = instead(lambda: answer("0x" + "00" * 10_000))
    assert "more than 10000 bytes" in await outlasts(plant, events, caplog, "eth_getLogs", fault)


# --- waking up --------------------------------------------------------------------------------------


async def test_new_head_wakes_the_follower_where_the_endpoint_has_a_websocket(plant: Plant, tmp_path: Path) -> None:
    async with EvmNode(plant.faulty.target) as node, asyncio.timeout(20):
        follower = Follower(node, (plant.token,), poll_s=3600, decode=decode)
        async with aclosing(follower.events(tmp_path / "events.db")) as events:
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            for amount in range(1, 100):  # the first may come before the subscription
                await plant.transfer(amount)
                if (await asyncio.wait([waiting], timeout=0.1))[0]:
                    break
            assert (await waiting).values["value"] == 1


async def test_endpoint_without_a_websocket_is_polled_and_said_so_once(
    plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="gemel.adapters.head_alarm")
    monkeypatch.setattr("gemel.adapters.head_alarm.FIRST_PAUSE_S", 0.01)
    async with EvmNode(plant.faulty.url) as node, asyncio.timeout(20):
        follower = Follower(node, (plant.token,), poll_s=0.05, decode=decode)
        async with aclosing(follower.events(tmp_path / "events.db")) as events:
            await anext(events)
            for amount in range(1, 4):
                await plant.transfer(amount)
                assert (await anext(events)).values["value"] == amount
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("no new heads from ws://127.0.0.1")
