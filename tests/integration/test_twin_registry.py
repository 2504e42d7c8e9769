"""The registry's two doors, without a broker: whatever comes in never stops it, and trouble is told apart outside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.adapters.clock import FakeClock
from gemel.adapters.registry_stores import open_stores
from gemel.adapters.sql_twins import Keep
from gemel.errors import StoreUnavailable
from gemel.host.metrics import Metrics
from gemel.ports import BusMessage
from gemel.twin.state import blank, to_json
from gemel.wire import topics
from twin_registry.api import make_app
from twin_registry.keeping import Keeper


class BrokenStore:
    """A store whose disk is gone."""

    async def put(self, *arguments: object) -> bool:
        raise StoreUnavailable("no disk")

    async def twins(self) -> list[object]:
        raise StoreUnavailable("no disk")


@asynccontextmanager
async def api(store: object) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(make_app(store))) as client:
        yield client


names = st.sampled_from(["north", "press-1", "x"])
documents = st.builds(lambda site, asset: to_json(blank(site, asset)), names, names)
payloads = st.binary() | documents | documents.map(lambda data: data[: len(data) // 2]) | st.just(b"online")


@given(st.lists(st.tuples(st.sampled_from(["twin", "availability", "status"]), names, names, payloads), max_size=20))
@settings(max_examples=20)
async def test_whatever_is_published_is_stored_or_counted_and_never_raised(
    messages: list[tuple[str, str, str, bytes]],
) -> None:
    metrics = Metrics("test")
    with TemporaryDirectory() as folder:
        async with open_stores(f"sqlite:///{folder}/twins.sqlite") as stores:
            keeper = Keeper(stores.twins, FakeClock(), metrics.registry_messages)
            for kind, site, name, payload in messages:
                if kind == "twin":
                    await keeper.hear_twin(BusMessage(topics.twin_state(site, name), payload))
                else:
                    await keeper.hear_agent(BusMessage(topics.agent(site, name, kind), payload))
            for entry in await stores.twins.twins():
                document = to_json(blank(entry.site, entry.asset))
                assert ("twin", entry.site, entry.asset, document) in messages  # under its own name only
    (family,) = metrics.registry_messages.collect()
    assert sum(s.value for s in family.samples if s.name.endswith("_total")) == len(messages)


async def test_machine_beyond_the_bound_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    metrics = Metrics("test")
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite", Keep(machines=1)) as stores:
        keeper = Keeper(stores.twins, FakeClock(), metrics.registry_messages)
        for asset in ("a", "b", "a"):
            await keeper.hear_twin(BusMessage(topics.twin_state("north", asset), to_json(blank("north", asset))))
        assert [entry.asset for entry in await stores.twins.twins()] == ["a"]
    refused = {"outcome": "refused", "reason": "too_large"}
    assert metrics.registry.get_sample_value("gemel_registry_messages_total", refused) == 1


async def test_message_is_not_acknowledged_while_the_store_is_away() -> None:
    keeper = Keeper(BrokenStore(), FakeClock(), Metrics("test").registry_messages)
    with pytest.raises(StoreUnavailable):  # out of the handler: the bus does not acknowledge
        await keeper.hear_twin(BusMessage(topics.twin_state("north", "a"), to_json(blank("north", "a"))))


async def test_api_says_503_while_the_store_is_away() -> None:
    async with api(BrokenStore()) as client:
        for path in ("/healthz", "/twins"):
            async with client.get(path) as answer:
                assert (answer.status, await answer.json()) == (503, {"error": "no disk"})


@given(
    st.text(max_size=20), st.text(max_size=20), st.dictionaries(st.sampled_from(["from", "to", "limit"]), st.text())
)
@settings(max_examples=30)
async def test_any_path_and_query_is_answered_with_json_and_never_with_500(
    site: str, asset: str, query: dict[str, str]
) -> None:
    with TemporaryDirectory() as folder:
        async with open_stores(f"sqlite:///{folder}/twins.sqlite") as stores, api(stores.twins) as client:
            path = "/twins/" + "/".join(part.replace("/", "").strip(".") or "x" for part in (site, asset))
            async with client.get(path + "/history", params=query) as answer:
                assert answer.status in (400, 404)
                assert "error" in json.loads(await answer.read())
