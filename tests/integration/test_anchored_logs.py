"""Real logs, anchored by a real chain listener: each entry proves itself against the chain, whatever was killed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import tomllib
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import aiohttp
import msgspec
import pytest
import tomli_w

from chain_listener.registry_log import RegistryLog, RegistryUnavailable
from gemel.adapters.evm_anchors import EvmAnchors
from gemel.errors import Malformed
from gemel.exchange.deployment_log import KIND, DeploymentEntry
from gemel.ports import Access, AccessRoot
from gemel.wire.logs import (
    ACCESS_LOG,
    DEPLOYMENT_LOG,
    AnchorRecord,
    prove_root,
    verify_entry,
    verify_range,
)
from gemel.wire.messages import Deployment, decode, encode
from gemel.wire.types import sha256
from tests.support.fleet import Fleet, fleet, opened
from tests.support.services import Registry, Service, running
from twin_registry.access_log import AccessProof

AGENTS = {"a": "bonn", "b": "lyon", "c": "graz"}


class _Roots(msgspec.Struct):
    roots: list[AccessRoot]


def listener_of(plant: Fleet, registry: str) -> Service:
    """The real chain listener, in a hurry."""
    path = plant._configure("listener", {})
    more = {"anchor_interval_s": 0.2, "registry": {"url": registry}}
    path.write_text(tomli_w.dumps(tomllib.loads(path.read_text()) | more))
    return Service("chain_listener", ["--config", str(path)], plant.root / "logs" / "listener.log")


async def ask(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.read()


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, AGENTS) as founded:
        yield founded


async def anchors_of(anchors: EvmAnchors, log: str) -> list[AnchorRecord]:
    return [await anchors.anchor_at(log, index) for index in range(await anchors.anchor_count(log))]


async def test_every_read_of_the_registry_proves_itself_against_the_chain_though_the_listener_was_killed(
    plant: Fleet,
) -> None:
    registry = Registry(plant.root, plant.broker_url)
    config = plant.root / "registry.toml"
    config.write_text("access_root_s = 0.1\n" + config.read_text())
    anchors = EvmAnchors((await plant.chain_of("operator")).calls)
    listener = listener_of(plant, registry.url)
    async with running(registry), running(listener):
        for killed in (True, False):
            before = await anchors.anchored_entries(ACCESS_LOG)
            for _ in range(5):
                await ask(f"{registry.url}/twins")

            async def moved(before: int = before) -> bool:
                return await anchors.anchored_entries(ACCESS_LOG) >= before + 5

            await plant.until(moved)
            if killed:
                await listener.stop(signal.SIGKILL)
                await ask(f"{registry.url}/twins")
                await listener.start()
        ranges = await anchors_of(anchors, ACCESS_LOG)
        assert ranges[0].first == 1
        assert all(later.first == earlier.last + 1 for earlier, later in pairwise(ranges))
        roots = msgspec.json.decode(await ask(f"{registry.url}/accesses/roots"), type=_Roots).roots
        for number in range(1, ranges[-1].last + 1):
            proof = msgspec.json.decode(await ask(f"{registry.url}/accesses/{number}"), type=AccessProof)
            anchor = await anchors.anchor_of(ACCESS_LOG, number)
            assert anchor is not None
            under = [root.root for root in roots if anchor.first <= root.first <= anchor.last]
            path = [bytes.fromhex(sibling) for sibling in proof.path] + prove_root(under, proof.root.root)
            assert verify_entry(encode(proof.entry), number, path, anchor)
            forged = Access(number, proof.entry.time_ms, "somebody else", proof.entry.what)
            assert not verify_entry(encode(forged), number, path, anchor)


async def test_deployments_stand_in_a_log_that_the_chain_holds_and_the_listener_cannot_rewrite(plant: Fleet) -> None:
    listener = listener_of(plant, "http://127.0.0.1:9")  # no registry there: its log waits, the other does not
    anchors = EvmAnchors((await plant.chain_of("operator")).calls)
    async with running(listener):
        await plant.start("coordinator", "custodian", *plant.plan.validator_names)
        message = await plant.wait(plant.witness.message(plant.topics.deployment))

        async def anchored() -> bool:
            return await anchors.anchored_entries(DEPLOYMENT_LOG) >= 1

        await plant.until(anchored)
        await listener.stop(signal.SIGKILL)
        await listener.start()
    assert "not anchored" in listener.log
    records = plant.state("listener") / "records.sqlite"
    with closing(sqlite3.connect(records)) as database:
        rows = database.execute("SELECT value FROM records WHERE kind = ? ORDER BY key", (KIND,)).fetchall()
    entries = [bytes(value) for (value,) in rows]
    first = decode(DeploymentEntry, entries[0])
    said = decode(Deployment, opened(message).body)
    assert (first.sequence, first.deployment, first.message) == (1, 1, sha256(encode(said)))
    assert (first.transaction, first.block) == (said.transaction, said.block)
    for anchor in await anchors_of(anchors, DEPLOYMENT_LOG):
        under = entries[anchor.first - 1 : anchor.last]
        assert verify_range(under, anchor)
        assert not verify_range([each.replace(b'"deployment":1', b'"deployment":2') for each in under], anchor)


# --- a registry that answers otherwise -------------------------------------------------------------


def root(first: int, last: int) -> dict[str, object]:
    return {"first": first, "last": last, "sealed_ms": 5, "root": sha256(b"%d" % first)}


@pytest.fixture
async def answering() -> AsyncIterator[tuple[RegistryLog, list[tuple[int, bytes]]]]:
    """A log at an address where the test decides on the answers."""
    from aiohttp import web

    answers: list[tuple[int, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer secret"
        status, body = answers.pop(0)
        return web.Response(status=status, body=body, headers={"location": "/elsewhere"} if status == 302 else {})

    app = web.Application()
    app.router.add_get("/accesses/roots", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield RegistryLog(f"http://{host}:{port}", "secret"), answers
    await runner.cleanup()


def listed(*roots: dict[str, object]) -> bytes:
    return msgspec.json.encode({"roots": roots})


async def test_roots_that_follow_each_other_become_one_range(
    answering: tuple[RegistryLog, list[tuple[int, bytes]]],
) -> None:
    log, answers = answering
    answers += [(200, listed(root(6, 7), root(8, 20))), (200, listed())]
    found = await log.next_range(5)
    assert found is not None
    assert (found.first, found.last) == (6, 20)
    assert await log.next_range(20) is None


@pytest.mark.parametrize(
    "roots",
    [
        [root(7, 9)],  # 6 is left out
        [root(6, 7), root(9, 10)],  # 8 is left out
        [root(6, 7), root(7, 10)],
        [root(1, 10)],
        [root(6, 5)],
    ],
)
async def test_roots_that_do_not_go_on_where_the_chain_is_are_malformed(
    answering: tuple[RegistryLog, list[tuple[int, bytes]]], roots: list[dict[str, object]]
) -> None:
    log, answers = answering
    answers.append((200, listed(*roots)))
    with pytest.raises(Malformed, match="do not go on after entry 5"):
        await log.next_range(5)


@pytest.mark.parametrize(
    "answer",
    [
        (503, b"{}"),
        (401, b"{}"),
        (302, b""),
        (200, b""),
        (200, b"\xff"),
        (200, b"[]"),
        (200, b'{"roots":[{"first":1}]}'),
        (200, b'{"roots":[' + b" " * (2 << 20) + b"]}"),
        (200, listed({**root(6, 7), "root": "no root"})),
    ],
)
async def test_answer_that_is_none_leaves_the_registry_unavailable(
    answering: tuple[RegistryLog, list[tuple[int, bytes]]], answer: tuple[int, bytes]
) -> None:
    log, answers = answering
    answers.append(answer)
    with pytest.raises(RegistryUnavailable):
        await log.next_range(5)


async def test_registry_that_is_away_is_unavailable() -> None:
    with pytest.raises(RegistryUnavailable):
        async with asyncio.timeout(20):
            await RegistryLog("http://127.0.0.1:9").next_range(0)
