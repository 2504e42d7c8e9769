"""The chain client when node or network misbehave: a real chain behind a proxy that spoils what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace
from web3._utils.http_session_manager import HTTPSessionManager

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import STAKE_TOKEN
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import TOKEN, NetworkTerms, deploy
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.evm_node import EvmNode, Patience
from gemel.embedded.chain.server import serving
from gemel.errors import ChainReverted, ChainUnavailable, ConfigError
from gemel.ports import Role, Sent
from gemel.wire.identity import Identity
from tests.support.chains import CHAIN_ID, FUNDED, OPERATOR, party, proof_of
from tests.support.parties import COORDINATOR, VALIDATORS, identity
from tests.support.ports import free_port

IMPATIENT = Patience(request_s=0.5, give_up_s=0.4, first_pause_s=0.01)
Fault = Callable[[Callable[[], Awaitable[bytes]]], Awaitable[web.Response]]


class Proxy:
    """Forwards to the chain; `faults` are used up one by one by requests of `method`."""

    def __init__(self, target: str) -> None:
        self.target, self.method, self.faults = target, "", list[Fault]()
        self.server: TestServer
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body["method"])

        async def forward() -> bytes:
            async with ClientSession() as session, session.post(self.target, json=body) as answer:
                return await answer.read()

        if body["method"] == self.method and self.faults:
            return await self.faults.pop(0)(forward)
        return web.Response(body=await forward(), content_type="application/json")

    @property
    def url(self) -> str:
        return str(self.server.make_url("/"))


async def answer_lost(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    await forward()
    return web.Response(status=502)


async def bad_gateway(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    return web.Response(status=502)


async def garbage(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    return web.Response(text="<html>", content_type="application/json")


async def no_answer_object(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    return web.Response(text="[]", content_type="application/json")


async def wrong_type(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    return web.Response(text='{"jsonrpc": "2.0", "id": 0, "result": "zebra"}', content_type="application/json")


async def silence(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
    await asyncio.sleep(2)
    return web.Response()


def wait_for_the_other(both: asyncio.Barrier) -> Fault:
    async def fault(forward: Callable[[], Awaitable[bytes]]) -> web.Response:
        await both.wait()
        return web.Response(body=await forward(), content_type="application/json")

    return fault


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    funded = [bytes.fromhex(address[2:]) for address in FUNDED]
    async with serving(tmp_path / "chain.db", port=0, chain_id=CHAIN_ID, funded=funded) as port:
        proxy = Proxy(f"http://127.0.0.1:{port}")
        application = web.Application()
        application.router.add_post("/", proxy.handle)
        proxy.server = TestServer(application)
        async with proxy.server:
            yield proxy


@pytest.fixture
async def deployed(proxy: Proxy) -> ChainPlace:
    holders = {OPERATOR.address: 1000}
    who = {"tokens": holders, "administrators": (OPERATOR.address,)}
    return await deploy(proxy.target, OPERATOR, CHAIN_ID, terms=NetworkTerms(), **who)


def client(url: str, at: ChainPlace, who: int = 4, patience: Patience | None = None) -> EvmChain:
    return EvmChain(replace(at, rpc_url=url), identity(who), patience=patience)


async def enter(chain: EvmChain, who: Identity, role: Role) -> Sent:
    record = party(who, role)
    return await chain.register(record, proof_of(who, record, chain.calls.place))


async def test_transaction_whose_answer_is_lost_is_sent_once(proxy: Proxy, deployed: ChainPlace) -> None:
    async with client(proxy.url, deployed) as chain:
        proxy.method, proxy.faults = "eth_sendRawTransaction", [answer_lost]
        before = await chain.calls.node.head()
        sent = await enter(chain, COORDINATOR, Role.COORDINATOR)
        assert proxy.asked.count("eth_sendRawTransaction") == 2
        assert sent.block == before.number + 1
        assert len(await chain.parties()) == 1


@pytest.mark.parametrize("fault", [bad_gateway, garbage, no_answer_object, silence])
async def test_call_gets_its_answer_once_the_node_is_itself_again(
    proxy: Proxy, deployed: ChainPlace, fault: Fault
) -> None:
    async with client(proxy.url, deployed, patience=Patience(request_s=0.3, first_pause_s=0.01)) as chain:
        proxy.method, proxy.faults = "eth_call", [fault, fault]
        assert await chain.parties() == []
        assert proxy.faults == []


@pytest.mark.parametrize("fault", [bad_gateway, garbage, no_answer_object, wrong_type, silence])
async def test_node_that_never_answers_sensibly_is_unavailable(
    proxy: Proxy, deployed: ChainPlace, fault: Fault
) -> None:
    async with client(proxy.url, deployed, patience=IMPATIENT) as chain:
        proxy.method, proxy.faults = "eth_call", [fault] * 1000
        with pytest.raises(ChainUnavailable):
            await chain.parties()


async def test_lock_that_a_cancelled_request_left_in_web3_stops_no_other_request(proxy: Proxy) -> None:
    with HTTPSessionManager._lock:  # of all providers in the process; nobody would ever release it
        async with asyncio.timeout(5), EvmNode(proxy.url) as node:
            assert (await node.head()).number == 0


async def test_node_that_is_not_there_is_unavailable() -> None:
    async with EvmNode(f"http://127.0.0.1:{free_port()}", IMPATIENT) as node:
        with pytest.raises(ChainUnavailable, match="no chain node answers"):
            await node.head()


async def test_sender_without_funds_is_told_so(proxy: Proxy, deployed: ChainPlace) -> None:
    poor = identity(77)
    async with client(proxy.url, deployed) as chain:
        await enter(chain, poor, Role.COORDINATOR)
    async with client(proxy.url, deployed, 77) as chain:
        with pytest.raises(ChainUnavailable, match="fund"):
            await EvmElections(chain.calls).fund(0)


async def test_of_two_that_do_the_same_at_once_one_is_told_that_it_is_done(
    proxy: Proxy, deployed: ChainPlace
) -> None:
    """Both estimates may hold before either is in a block; the later one then fails there, with its reason."""
    async with client(proxy.url, deployed) as first, client(proxy.url, deployed, 5) as second:
        await enter(first, VALIDATORS[0], Role.VALIDATOR)
        await first.calls.send(STAKE_TOKEN, "transfer", VALIDATORS[0].address, TOKEN)
        async with client(proxy.target, deployed, 11) as validator:
            await EvmElections(validator.calls).stake(TOKEN)
        proxy.method, proxy.faults = "eth_sendRawTransaction", [wait_for_the_other(asyncio.Barrier(2))] * 2
        closing = (EvmElections(chain.calls).close_epoch() for chain in (first, second))
        results = await asyncio.gather(*closing, return_exceptions=True)
    (refused,) = [each for each in results if isinstance(each, BaseException)]
    assert isinstance(refused, ChainReverted)
    assert refused.error == "EpochRunning"


async def test_deploying_on_another_chain_is_refused(proxy: Proxy) -> None:
    with pytest.raises(ConfigError, match="chain_id"):
        await deploy(proxy.target, OPERATOR, 1, terms=NetworkTerms(), tokens={}, administrators=())
