"""Server-Sent Events of the registry, read over real sockets by a reader that is not ours (httpx-sse)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse
from msgspec.structs import replace
from prometheus_client import Gauge

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.twin.agent import OFFLINE, ONLINE, AgentStatus, status_to_json
from gemel.twin.state import to_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.registry_api import alert, app_of, problem, twin
from tests.support.services import Registry, running
from twin_registry import live
from twin_registry.serving import served
from twin_registry.tokens import Token, Tokens, digest

COME_S = 20


class Reader:
    """One open stream."""

    def __init__(self, source: EventSource) -> None:
        self._events = source.aiter_sse()

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, after: str = "", token: str = "", **query: str) -> AsyncIterator[Self]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if after:
            headers["Last-Event-ID"] = after
        async with (
            httpx.AsyncClient(timeout=COME_S) as client,
            aconnect_sse(client, "GET", url + "/live", headers=headers, params=query) as source,
        ):
            assert source.response.status_code == 200
            yield cls(source)

    async def next(self) -> ServerSentEvent:
        async with asyncio.timeout(COME_S):
            return await anext(self._events)

    async def words(self, count: int) -> list[tuple[str, str, int | str]]:
        """The next events: what, of which machine, and its version or the id of the alert."""
        return [_word(await self.next()) for _ in range(count)]

    async def silent(self) -> bool:
        try:
            async with asyncio.timeout(0.3):
                await anext(self._events)
        except TimeoutError:
            return True
        return False


def _word(event: ServerSentEvent) -> tuple[str, str, int | str]:
    told: dict[str, Any] = event.json()
    match event.event:
        case "twin":
            return "twin", told["twin"]["asset"], told["twin"]["version"]
        case "alert":
            return "alert", told["asset"], told["document"]["id"]
    assert (event.event, event.id) == ("standing", str(told["sequence"]))
    return "standing", "", told["sequence"]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[RegistryStores]:
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        yield stores


@pytest.fixture
async def url(stores: RegistryStores) -> AsyncIterator[str]:
    async with served(app_of(stores), "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


async def test_reader_gets_what_stands_then_changes_and_alerts_in_their_order(
    stores: RegistryStores, url: str
) -> None:
    await stores.twins.put_event("north", "press-1", alert("long-ago"), 1)
    for asset in ("press-1", "press-2"):
        await stores.twins.put(twin(1, asset), 1)
    async with Reader.of(url) as reader:
        assert await reader.words(3) == [("twin", "press-1", 1), ("twin", "press-2", 1), ("standing", "", 3)]
        await stores.twins.put(twin(2, "press-2"), 2)
        await stores.twins.put_event("north", "press-2", alert("hot-1", "press-2"), 2)
        await stores.twins.put(twin(2), 2)
        assert await reader.words(3) == [
            ("twin", "press-2", 2), ("alert", "press-2", "hot-1"), ("twin", "press-1", 2)
        ]  # fmt: skip


async def test_reader_that_comes_again_misses_nothing_and_hears_nothing_twice(
    stores: RegistryStores, url: str
) -> None:
    await stores.twins.put(twin(1), 1)
    await stores.twins.put(twin(1, "press-2"), 1)
    async with Reader.of(url) as reader:
        await reader.words(3)
        await stores.twins.put_event("north", "press-1", alert("hot-1"), 2)
        last = (await reader.next()).id
    for version in (2, 3):
        await stores.twins.put(twin(version), 3)
    for number in (2, 3):
        await stores.twins.put_event("north", "press-1", alert(f"hot-{number}"), 3)
    async with Reader.of(url, last) as reader:
        missed = await reader.words(3)
        assert missed == [("twin", "press-1", 3), ("alert", "press-1", "hot-2"), ("alert", "press-1", "hot-3")]
        assert await reader.silent()


async def test_id_of_a_store_that_was_replaced_begins_at_the_beginning(stores: RegistryStores, url: str) -> None:
    await stores.twins.put(twin(1), 1)
    async with Reader.of(url, "900") as reader:
        assert await reader.words(2) == [("twin", "press-1", 1), ("standing", "", 1)]


async def test_twins_are_told_again_as_stale_when_their_agent_goes_and_as_good_when_it_comes_back(
    stores: RegistryStores, url: str
) -> None:
    await stores.twins.put(twin(1), 1)
    await stores.twins.put(twin(1, "press-2"), 1)
    agent = AgentStatus("gemel.agent/1", "north", "gw", "press-1", None, "", None, 0, 0, ("press-2",))
    status = status_to_json(agent)
    await stores.twins.put_agent("north", "gw", status=status, availability="online", received_ms=1)
    async with Reader.of(url) as reader:
        assert [(await reader.next()).json()["stale"] for _ in range(2)] == [False, False]
        await reader.words(1)
        for availability, stale, quality in (("offline", True, "stale"), ("online", False, "good")):
            await stores.twins.put_agent("north", "gw", availability=availability, received_ms=2)
            told = [await reader.next(), await reader.next()]
            assert [_word(event)[1] for event in told] == ["press-1", "press-2"]
            assert told[0].id < told[1].id  # the id comes with the last of the agent's twins
            for event in told:
                assert (event.json()["stale"], event.json()["twin"]["properties"]["TS1"]["quality"]) == (
                    stale,
                    quality,
                )


async def test_place_and_conditions_choose_what_is_told(stores: RegistryStores, url: str) -> None:
    async with Reader.of(url, asset="press-2", where="TS1>50") as reader:
        await reader.words(1)
        for asset, value in (("press-1", 99.0), ("press-2", 1.0)):
            await stores.twins.put(twin(1, asset, value), 1)
            await stores.twins.put_event("north", asset, alert("hot", asset), 1)
        await stores.twins.put(twin(2, "press-2", 99.0), 2)
        assert await reader.words(2) == [("alert", "press-2", "hot"), ("twin", "press-2", 2)]


async def test_token_hears_what_it_was_granted_and_nothing_else(stores: RegistryStores) -> None:
    tokens = Tokens([Token("wallboard", digest("wall"), ("read:north/press-2",))])
    await stores.twins.put(twin(1), 1)
    await stores.twins.put(twin(1, "press-2"), 1)
    async with served(app_of(stores, tokens), "127.0.0.1", 0) as port, httpx.AsyncClient() as nobody:
        url = f"http://127.0.0.1:{port}"
        assert problem(await nobody.get(url + "/live")) == 401
        async with Reader.of(url, token="wall") as reader:
            assert await reader.words(2) == [("twin", "press-2", 1), ("standing", "", 2)]
            for asset in ("press-1", "press-2"):
                await stores.twins.put_event("north", asset, alert("hot", asset), 1)
                await stores.twins.put(twin(2, asset), 1)
            assert await reader.words(2) == [("alert", "press-2", "hot"), ("twin", "press-2", 2)]


async def test_quiet_stream_shows_that_it_lives(
    stores: RegistryStores, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)
    async with (
        httpx.AsyncClient(timeout=COME_S) as client,
        client.stream("GET", url + "/live") as answer,
        asyncio.timeout(COME_S),
    ):
        comments = [line async for line in _lines_until(answer, 3)]
        assert comments == [": still here"] * 3


async def _lines_until(answer: httpx.Response, count: int) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield line
            count -= 1
        if not count:
            return


async def test_reader_that_does_not_read_holds_up_nobody_and_later_gets_each_twin_once(
    stores: RegistryStores, url: str
) -> None:
    _, port = url.rsplit(":", 1)
    slow = socket.create_connection(("127.0.0.1", int(port)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    slow.sendall(b"GET /live HTTP/1.1\r\nHost: registry\r\n\r\n")
    rounds, machines = 25, 10
    names = [f"T{n}" for n in range(200)]  # 20 kB a document, 5 MB in all: more than sockets hold between them
    try:
        async with Reader.of(url) as quick:
            await quick.words(1)
            for version in range(1, rounds + 1):
                wide = replace(twin(version), properties=dict.fromkeys(names, twin(version).properties["TS1"]))
                await asyncio.gather(*(stores.twins.put(replace(wide, asset=f"m-{n}"), 1) for n in range(machines)))
            seen = {}
            while len(seen) < machines or set(seen.values()) != {rounds}:
                _, asset, version = (await quick.words(1))[0]
                seen[asset] = version
        heard = await asyncio.to_thread(_drained, slow)
    finally:
        slow.close()
    told = heard.count("event: twin")
    assert told < rounds * machines / 2  # what it missed was not kept for it
    for machine in range(machines):
        latest = heard.rindex(f'"asset":"m-{machine}"')
        assert f'"version":{rounds},' in heard[heard.rindex("\nid: ", 0, latest) :].split("\n\n")[0]


def _drained(slow: socket.socket) -> str:
    """All that comes until there is silence."""
    slow.settimeout(1)
    heard = b""
    try:
        while data := slow.recv(65536):
            heard += data
    except TimeoutError:
        pass
    return heard.decode()


async def test_readers_are_counted_bounded_and_forgotten_when_they_leave(
    stores: RegistryStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_READERS", 2)
    gauge = Gauge("readers", "Readers.", registry=None)
    async with (
        served(app_of(stores, live_readers=gauge), "127.0.0.1", 0) as port,
        httpx.AsyncClient(timeout=COME_S) as client,
    ):
        url = f"http://127.0.0.1:{port}"
        async with Reader.of(url) as one, Reader.of(url) as two:
            await one.words(1)
            await two.words(1)
            assert gauge._value.get() == 2
            answer = await client.get(url + "/live")
            assert (problem(answer), answer.headers["retry-after"]) == (503, "60")
        async with asyncio.timeout(COME_S):
            while gauge._value.get():  # noqa: ASYNC110  the server hears of it when it does
                await asyncio.sleep(0.01)
        async with Reader.of(url) as three:
            await three.words(1)


@pytest.mark.broker
async def test_event_source_follows_a_real_registry_on_a_real_broker_across_its_restart(tmp_path: Path) -> None:
    agent = AgentStatus("gemel.agent/1", "north", "gw", "press-1", None, "", None, 0, 0)
    async with (
        mosquitto() as broker,
        running(Registry(tmp_path, broker)) as registry,
        MqttBus(BusSettings(broker, "gateway")) as gateway,
    ):
        assert isinstance(registry, Registry)
        async with Reader.of(registry.url) as reader:
            heard = await reader.words(1)
            await gateway.publish(topics.agent("north", "gw", "status"), status_to_json(agent), retain=True)
            await gateway.publish(topics.agent("north", "gw", "availability"), ONLINE, retain=True)
            await gateway.publish(topics.twin_state("north", "press-1"), to_json(twin(1)), retain=True)
            await gateway.publish(topics.twin_event("north", "press-1"), alert("hot-1"))
            while {"alert", "twin"} - {word for word, _, _ in heard}:
                heard.append(_word(event := await reader.next()))
            assert {("twin", "press-1", 1), ("alert", "press-1", "hot-1")} == set(heard[1:])
        await registry.stop()
        await gateway.publish(topics.twin_event("north", "press-1"), alert("hot-2"))
        await gateway.publish(topics.agent("north", "gw", "availability"), OFFLINE, retain=True)
        await registry.start()
        async with Reader.of(registry.url, event.id) as reader:
            told = [await reader.next(), await reader.next()]
            assert {_word(one)[0] for one in told} == {"alert", "twin"}
            assert next(one for one in told if one.event == "twin").json()["stale"]
