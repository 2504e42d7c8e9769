"""Chain endpoints that agents ask: they must agree, liars are named, and the silent or garbled do not count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from edge_agent.learning import endpoints as endpoints_module
from edge_agent.learning.endpoints import Endpoints
from gemel.adapters.chain_endpoints import MAX_ANSWER_BYTES
from gemel.adapters.clock import SystemClock
from gemel.adapters.contract_abi import ROUND_REGISTRY, load
from gemel.errors import Refused
from gemel.wire.eip712 import task_id
from tests.support.parties import TRUST
from tests.support.ports import free_port

MODEL, OTHER = "ab" * 32, "cd" * 32
Answer = Callable[[dict[str, Any]], web.StreamResponse]
TASK = load(ROUND_REGISTRY).functions["task"]


def node(deployment: int = 2, model: str = MODEL, chain_id: int = TRUST.chain_id) -> Answer:
    """A node that is in order, and says this."""
    fields = {"deployment": f"{deployment:064x}", "model": model}
    words = [fields.get(each["name"], "00" * 32) for each in TASK.outputs[0]["components"]]
    call = {"to": TRUST.registry, "data": "0x" + TASK.encode(task_id(TRUST.task)).hex()}

    def answer(request: dict[str, Any]) -> web.StreamResponse:
        if request["method"] == "eth_chainId":
            return result(hex(chain_id))
        assert request["params"] == [call, "latest"]
        return result("0x" + "".join(words))

    return answer


def result(value: object) -> web.StreamResponse:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": value})


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Any]]:
    """Run a node that answers so; gives its url."""
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> str:
            async def handle(request: web.Request) -> web.StreamResponse:
                return answer(await request.json())

            application = web.Application()
            application.router.add_post("/", handle)
            runner = web.AppRunner(application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            return f"http://127.0.0.1:{port}/"

        yield start


def endpoints(*urls: str) -> Endpoints:
    return Endpoints(urls, TRUST.domain, TRUST.task, SystemClock(), interval_s=60.0)


async def test_installation_goes_on_where_all_that_answer_agree_with_it(serve: Callable[[Answer], Any]) -> None:
    asked = endpoints(await serve(node()), await serve(node()))
    await asked.confirm(2, MODEL)
    assert asked.latest.remarks(2) == []
    assert "the chain is ahead of deployment 1" in asked.latest.remarks(1)[0]


@pytest.mark.parametrize(("deployment", "model"), [(2, OTHER), (3, MODEL), (3, OTHER)])
async def test_one_endpoint_that_says_otherwise_stops_the_installation_and_is_named(
    serve: Callable[[Answer], Any], deployment: int, model: str
) -> None:
    honest, liar = await serve(node()), await serve(node(deployment, model))
    asked = endpoints(honest, liar)
    with pytest.raises(Refused, match="contradicted") as error:
        await asked.confirm(2, MODEL)
    assert liar in error.value.detail
    assert honest not in error.value.detail
    (remark,) = asked.latest.remarks(2)
    assert "contradict each other" in remark
    assert liar in remark


async def test_endpoint_that_is_a_few_blocks_behind_is_waited_for_and_one_that_stays_behind_is_named(
    serve: Callable[[Answer], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints_module, "ASK_AGAIN_S", 0.01)
    monkeypatch.setattr(endpoints_module, "CATCH_UP_S", 0.2)
    asks = 0

    def late(request: dict[str, Any]) -> web.StreamResponse:
        nonlocal asks
        asks += request["method"] == "eth_call"
        return node(1, OTHER)(request) if asks < 3 else node()(request)

    await endpoints(await serve(node()), await serve(late)).confirm(2, MODEL)
    behind = await serve(node(1, OTHER))
    with pytest.raises(Refused, match="contradicted") as error:
        await endpoints(await serve(node()), behind).confirm(2, MODEL)
    assert behind in error.value.detail


async def test_endpoints_that_do_not_count_are_named_and_stop_nothing(serve: Callable[[Answer], Any]) -> None:
    async def gone() -> str:
        return f"http://127.0.0.1:{free_port()}/"

    def too_long(_request: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=b"[" * (MAX_ANSWER_BYTES * 4))

    def half_an_answer(request: dict[str, Any]) -> web.StreamResponse:
        return result("0x00") if request["method"] == "eth_call" else node()(request)

    away = await serve(node())  # redirects are not followed: they would end at an endpoint that nobody chose
    bad: dict[str, str] = {
        await gone(): "does not answer",
        await serve(node(chain_id=1)): "is on chain 1, not",
        await serve(lambda _: web.Response(text="<html>")): "nonsense",
        await serve(lambda _: web.json_response([])): "nonsense",
        await serve(lambda _: result(7)): "nonsense",
        await serve(lambda _: result("zz")): "nonsense",
        await serve(lambda _: result(None)): "refuses eth_chainId",
        await serve(lambda _: web.json_response({"error": {"code": -32000, "message": "busy"}})): "busy",
        await serve(lambda _: web.Response(body=b"\xff\xfe{")): "nonsense",
        await serve(lambda _: web.Response(text="[" * 30_000)): "nonsense",
        await serve(too_long): "more than",
        await serve(half_an_answer): "nonsense",
        await serve(lambda _: web.Response(status=302, headers={"Location": away})): "nonsense",
    }
    asked = endpoints(await serve(node()), *bad)
    await asked.confirm(2, MODEL)
    assert len(asked.latest.said) == 1
    for url, why in bad.items():
        assert url in asked.latest.silent[url], why
        assert why in asked.latest.silent[url]
    assert asked.latest.remarks(2) == list(asked.latest.silent.values())

    alone = endpoints(*bad)  # none counts: attestations are all there is
    await alone.confirm(2, MODEL)
    assert "signatures of validators are all there is" in alone.latest.remarks(2)[-1]


async def test_endpoint_that_never_answers_holds_nobody_up_for_long(
    serve: Callable[[Answer], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.adapters.chain_endpoints.REQUEST_S", 0.1)

    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the agent hangs up
        writer.close()
        await writer.wait_closed()
        left.set()

    port = free_port()
    server = await asyncio.start_server(hang, "127.0.0.1", port)
    async with server:
        asked = endpoints(f"http://127.0.0.1:{port}/", await serve(node()))
        await asked.confirm(2, MODEL)
        assert "does not answer" in asked.latest.silent[f"http://127.0.0.1:{port}/"]
        await left.wait()


async def test_agent_without_endpoints_asks_nobody() -> None:
    asked = endpoints()
    await asked.confirm(2, MODEL)
    await asked.watch()
    assert asked.latest.remarks(2) == []
