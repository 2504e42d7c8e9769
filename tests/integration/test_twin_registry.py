"""The registry's doors, without a broker: whatever comes in never stops it, and trouble is told apart outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from structlog.testing import capture_logs

from gemel.adapters.clock import FakeClock
from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.adapters.sql_keep import Keep
from gemel.errors import ConfigError, StoreUnavailable
from gemel.host.metrics import Metrics
from gemel.ports import BusMessage
from gemel.twin.agent import AgentStatus, status_to_json
from gemel.twin.backfill import Backfill, Kept
from gemel.twin.backfill import to_json as backfill_to_json
from gemel.twin.state import blank, to_json
from gemel.wire import merkle, topics
from tests.support.registry_api import alert, app_of, client_of, problem, twin
from twin_registry import access_log, answering, library
from twin_registry.answering import Answerer
from twin_registry.api import OPEN_PATHS, make_app
from twin_registry.keeping import Keeper
from twin_registry.tokens import Reader, Token, Tokens, digest

PRESS = "/twins/north/press-1"


class BrokenStore:
    """A store whose disk is gone."""

    def __getattr__(self, name: str) -> Any:
        async def gone(*arguments: object, **more: object) -> None:
            raise StoreUnavailable("no disk")

        return gone


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[RegistryStores]:
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        yield stores


@pytest.fixture
async def api(stores: RegistryStores) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(stores)) as client:
        yield client


# --- what agents say ------------------------------------------------------------------------------

names = st.sampled_from(["north", "press-1", "x"])
documents = st.builds(lambda site, asset: to_json(blank(site, asset)), names, names)
payloads = st.binary() | documents | documents.map(lambda data: data[: len(data) // 2]) | st.just(b"online")
kinds = st.sampled_from(["twin", "availability", "status", "event", "backfill"])


@given(st.lists(st.tuples(kinds, names, names, payloads), max_size=20))
@settings(max_examples=20)
async def test_whatever_is_published_is_stored_or_counted_and_never_raised(
    messages: list[tuple[str, str, str, bytes]],
) -> None:
    metrics = Metrics("test")
    with TemporaryDirectory() as folder:
        async with open_stores(f"sqlite:///{folder}/twins.sqlite") as stores:
            keeper = Keeper(stores.twins, FakeClock(), counter := metrics.registry_messages)
            for kind, site, name, payload in messages:
                if kind == "twin":
                    await keeper.hear_twin(BusMessage(topics.twin_state(site, name), payload))
                elif kind == "event":
                    await keeper.hear_event(BusMessage(topics.twin_event(site, name), payload))
                elif kind == "backfill":
                    await keeper.hear_backfill(BusMessage(topics.twin_backfill(site, name), payload))
                else:
                    await keeper.hear_agent(BusMessage(topics.agent(site, name, kind), payload))
            for entry in await stores.twins.twins():
                document = to_json(blank(entry.site, entry.asset))
                assert ("twin", entry.site, entry.asset, document) in messages  # under its own name only
    (family,) = counter.collect()
    assert sum(s.value for s in family.samples if s.name.endswith("_total")) == len(messages)


async def test_machines_by_the_thousand_end_at_the_bound_with_one_word_and_the_rest_goes_on(tmp_path: Path) -> None:
    metrics = Metrics("test")
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite", Keep(machines=100)) as stores:
        keeper = Keeper(stores.twins, FakeClock(), metrics.registry_messages)
        names = [f"a-{number:04}" for number in range(1000)]
        with capture_logs() as said:
            for version in (1, 2):
                for asset in names:
                    message = BusMessage(topics.twin_state("north", asset), to_json(twin(version, asset)))
                    await keeper.hear_twin(message)
        assert [(e.asset, e.version) for e in await stores.twins.twins()] == [(name, 2) for name in names[:100]]
    refused = {"outcome": "refused", "reason": "too_large"}
    assert metrics.registry.get_sample_value("gemel_registry_messages_total", refused) == 2 * 900
    (word,) = (line for line in said if line["log_level"] == "warning")
    assert word["topic"] == topics.twin_state("north", "a-0100")
    assert "no more than 100: max_machines" in word["error"]


async def test_message_is_not_acknowledged_while_the_store_is_away() -> None:
    keeper = Keeper(BrokenStore(), FakeClock(), Metrics("test").registry_messages)
    with pytest.raises(StoreUnavailable):  # out of the handler: the bus does not acknowledge
        await keeper.hear_twin(BusMessage(topics.twin_state("north", "a"), to_json(blank("north", "a"))))


async def test_backfill_becomes_history_and_events_are_stored_once(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    keeper = Keeper(stores.twins, FakeClock(), Metrics("test").registry_messages)
    await keeper.hear_twin(BusMessage(topics.twin_state("north", "press-1"), to_json(twin(9, value=9.0))))
    late = Backfill("gemel.twin.backfill/1", "north", "press-1", 0, tuple(Kept(v, twin(v)) for v in (3, 4)))
    for _ in range(2):
        await keeper.hear_backfill(BusMessage(topics.twin_backfill("north", "press-1"), backfill_to_json(late)))
        await keeper.hear_event(BusMessage(topics.twin_event("north", "press-1"), alert("hot-1")))
    assert (await api.get(PRESS)).json()["twin"]["version"] == 9
    series = (await api.get(PRESS + "/series/TS1")).json()
    assert [sample["time_ms"] for sample in series["samples"]] == [3000, 4000, 9000]
    then = (await api.get(PRESS + "?at=3")).json()["twin"]  # all of it: what the model said, and what was wrong
    assert (then["version"], then["health"]["cooler"]["condition"]) == (3, "good")
    page = (await api.get(PRESS + "/history")).json()["revisions"]
    assert [one["twin"]["version"] for one in page] == [9, 3, 4]
    (stored,) = (await api.get("/events?site=north&asset=press-1")).json()["events"]
    assert (stored["document"]["id"], stored["document"]["event"]) == ("hot-1", "raised")


# --- questions ------------------------------------------------------------------------------------


async def test_list_is_searched_by_conditions_and_paged(stores: RegistryStores, api: httpx.AsyncClient) -> None:
    for number in range(6):
        condition = "near_failure" if number % 2 else "good"
        await stores.twins.put(twin(1, f"press-{number}", 10.0 * number, condition), 1)

    async def found(query: str) -> list[str]:
        return [line["asset"] for line in (await api.get(f"/twins?{query}")).json()["twins"]]

    assert await found("where=TS1>20") == ["press-3", "press-4", "press-5"]
    assert await found("where=TS1%3E=20&where=health.cooler.condition==near_failure") == ["press-3", "press-5"]
    assert await found('where=health.cooler.condition!="near_failure"') == ["press-0", "press-2", "press-4"]
    assert await found("where=PS9!=1") == []
    assert await found("site=south") == []
    pages, after = [], ""
    while after is not None:
        page = (await api.get(f"/twins?limit=4&after={after}")).json()
        pages.append([line["asset"] for line in page["twins"]])
        after = page["next"]
    assert [len(page) for page in pages] == [4, 2]
    for wrong in ("TS1", "TS1=3", "__import__('os')==1", "TS1>1e999", "TS1>" + "9" * 300):
        assert problem(await api.get("/twins", params={"where": wrong})) == 400


async def test_twin_now_then_and_at_a_revision_with_its_etag(stores: RegistryStores, api: httpx.AsyncClient) -> None:
    for version in (1, 2, 3):
        await stores.twins.put(twin(version), version * 100)
    now = await api.get(PRESS)
    assert (now.json()["twin"]["version"], now.headers["etag"]) == (3, '"3"')
    assert (await api.get(PRESS, headers={"If-None-Match": 'W/"1", "3"'})).status_code == 304
    assert (await api.get(PRESS, headers={"If-None-Match": '"2"'})).status_code == 200
    assert (await api.get(PRESS + "?at=250")).json()["twin"]["version"] == 2
    assert (await api.get(PRESS + "?revision=1")).json()["twin"]["version"] == 1
    for path in (PRESS + "?at=99", PRESS + "?revision=4", "/twins/north/nobody", "/twins/north/nobody/history", "/x"):
        assert problem(await api.get(path)) == 404
    for path in ("/history?limit=0", "/history?from=x", "/history?from=%F0%9D%9F%98", "/series/TS1?step_s=61"):
        assert problem(await api.get(PRESS + path)) == 400
    page = (await api.get(PRESS + "/history?limit=2")).json()
    assert [r["revision"] for r in page["revisions"]] == [1, 2]
    page = (await api.get(PRESS + f"/history?limit=2&after={page['next']}")).json()
    assert ([r["revision"] for r in page["revisions"]], page["next"]) == ([3], None)


async def test_series_is_paged_raw_and_in_steps(stores: RegistryStores, api: httpx.AsyncClient) -> None:
    for version in range(1, 201):
        await stores.twins.put(twin(version, value=float(version)), version)
    times, start = [], 0
    while start is not None:
        page = (await api.get(f"{PRESS}/series/TS1?limit=60&from={start}")).json()
        times += [sample["time_ms"] for sample in page["samples"]]
        start = page["next"]
    assert times == [version * 1000 for version in range(1, 201)]
    page = (await api.get(f"{PRESS}/series/TS1?step_s=60")).json()
    assert [(b["time_ms"], b["count"], b["low"], b["high"], b["last"]) for b in page["buckets"]] == [
        (0, 59, 1, 59, 59), (60_000, 60, 60, 119, 119), (120_000, 60, 120, 179, 179), (180_000, 21, 180, 200, 200)
    ]  # fmt: skip


async def test_twin_of_an_agent_that_is_offline_is_stale(stores: RegistryStores, api: httpx.AsyncClient) -> None:
    await stores.twins.put(twin(1, value=50.0), 1)
    status = status_to_json(AgentStatus("gemel.agent/1", "north", "gw", "press-1", None, "", None, 0, 0))
    await stores.twins.put_agent("north", "gw", status=status, availability="online", received_ms=1)
    assert not (await api.get(PRESS)).json()["stale"]
    await stores.twins.put_agent("north", "gw", availability="offline", received_ms=2)
    shown = await api.get(PRESS)
    assert shown.json()["stale"]
    assert shown.json()["twin"]["properties"]["TS1"]["quality"] == "stale"
    assert shown.headers["etag"] == '"1s"'
    assert (await api.get("/twins?where=TS1>40")).json()["twins"] == []


async def test_every_machine_of_an_agent_that_is_offline_is_stale(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    status = status_to_json(AgentStatus("gemel.agent/1", "north", "gw", "a", None, "", None, 0, 0, ("b",)))
    for asset in ("a", "b", "c"):
        await stores.twins.put(twin(1, asset), 1)
    await stores.twins.put_agent("north", "gw", status=status, availability="offline", received_ms=1)
    assert [line["stale"] for line in (await api.get("/twins")).json()["twins"]] == [True, True, False]
    tokens = Tokens([Token("wallboard", digest("wall"), ("read:north/a",))])
    async with client_of(app_of(stores, tokens), "wall") as wallboard:  # which may know nothing of b
        assert (await wallboard.get("/agents")).json()["agents"] == []


async def test_page_of_wide_revisions_is_short_and_goes_on(
    stores: RegistryStores, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_PAGE_PROPERTIES", 90)
    reading = twin(1).properties["TS1"]
    for version in range(1, 8):
        wide = {f"T{n}": replace(reading, source_time_ms=version) for n in range(30)}
        await stores.twins.put(replace(twin(version), properties=wide), version)
    found, after = list[list[int]](), 0
    while after is not None:
        page = (await api.get(f"{PRESS}/history?limit=1000&after={after}")).json()
        found.append([revision["revision"] for revision in page["revisions"]])
        after = page["next"]
    assert found == [[1, 2, 3], [4, 5, 6], [7]]


async def test_assets_are_declared_from_what_was_looked_at_and_make_a_tree(api: httpx.AsyncClient) -> None:
    async def put(place: str, body: object, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await api.put(f"/assets/{place}", content=json.dumps(body), headers=named)

    assert problem(await put("north/hall", {})) == 428
    made = await put("north/hall", {"title": "Hall"}, If_None_Match="*")
    assert (made.status_code, made.headers["etag"]) == (204, '"1"')
    assert problem(await put("north/hall", {}, If_None_Match="*")) == 412
    for number, parent in ((1, "north/hall"), (2, "north/press-1")):
        body = {"parent": parent, "relations": [{"kind": "feeds", "to": "north/tank"}]}
        assert (await put(f"north/press-{number}", body, If_None_Match="*")).status_code == 204
    assert problem(await put("north/hall", {"parent": "north/press-2"}, If_Match='"1"')) == 409
    assert problem(await put("north/hall", {"owner": "me"}, If_Match='"1"')) == 400
    assert problem(await put("north/hall", {"title": "x" * 70_000}, If_Match='"1"')) == 413
    assert (await put("north/hall", {"title": "Hall 1"}, If_Match='"1"')).headers["etag"] == '"2"'
    assert problem(await put("north/hall", {}, If_Match='"1"')) == 412
    nodes = (await api.get("/tree")).json()["nodes"]
    assert [(n["asset"], n["depth"]) for n in nodes] == [("hall", 0), ("press-1", 1), ("press-2", 2)]
    assert (await api.get("/assets/north/press-1")).json()["document"]["relations"][0]["kind"] == "feeds"
    assert problem(await api.get("/assets/north/nothing")) == 404


async def test_asset_is_changed_under_the_conditions_of_http(api: httpx.AsyncClient) -> None:
    async def put(body: str = "{}", **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await api.put("/assets/north/hall", content=body, headers=named)
        return answer.status_code, answer.headers.get("etag", "")

    assert await put(If_Match="*") == (412, "")  # there is none that could match
    assert await put(If_Match='"0"') == (412, "")
    assert await put(If_None_Match="*") == (204, '"1"')
    assert await put(If_Match='"7", "1"') == (204, '"2"')
    assert await put(If_Match="*") == (204, '"3"')
    for wrong in ('W/"3"', '"2"', "3", "x" * 5000):  # a weak tag never matches a change
        assert await put(If_Match=wrong) == (412, "")
    assert await put(If_Match='"3"', If_None_Match='"3"') == (412, "")
    assert await put('{"title": "Hall"}', If_Match='"3"', If_None_Match='"2"') == (204, '"4"')
    assert await put() == (428, "")
    read = await api.get("/assets/north/hall")
    assert (read.headers["etag"], read.json()["document"]) == ('"4"', {"title": "Hall"})
    for known in ('"4"', 'W/"4"', '"1", "4"', "*"):
        answer = await api.get("/assets/north/hall", headers={"If-None-Match": known})
        assert (answer.status_code, answer.headers["etag"], answer.content) == (304, '"4"', b"")


async def test_two_who_looked_at_the_same_asset_do_not_overwrite_each_other(api: httpx.AsyncClient) -> None:
    await api.put("/assets/north/hall", content="{}", headers={"If-None-Match": "*"})
    answers = await asyncio.gather(
        *(api.put("/assets/north/hall", content=f'{{"title": "{n}"}}', headers={"If-Match": '"1"'}) for n in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [204, 412, 412, 412, 412]


async def test_relations_are_found_from_both_ends(stores: RegistryStores, api: httpx.AsyncClient) -> None:
    pump, tank, eye = "north/pump feeds north/tank", "north/tank feeds north/line", "north/eye sees north/pump"
    for asset, kind, to in (("pump", "feeds", "tank"), ("tank", "feeds", "line"), ("eye", "sees", "pump")):
        body = json.dumps({"relations": [{"kind": kind, "to": f"north/{to}"}]})
        await api.put(f"/assets/north/{asset}", content=body, headers={"If-None-Match": "*"})

    async def found(client: httpx.AsyncClient, **query: str) -> list[str]:
        links = (await client.get("/relations", params=query)).json()["relations"]
        return [f"{link['source']} {link['kind']} {link['target']}" for link in links]

    assert await found(api) == [eye, pump, tank]
    assert await found(api, of="north/tank") == [pump, tank]
    assert await found(api, of="north/pump", kind="sees") == [eye]
    assert problem(await api.get("/relations?of=tank")) == 400
    tokens = Tokens([Token("wallboard", digest("wall"), ("read:north/pump",))])
    async with client_of(app_of(stores, tokens), "wall") as wallboard:
        assert await found(wallboard) == [pump]


async def test_pages_of_events_reach_every_event_that_was_granted(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    for number in range(20):
        asset = "press-1" if number % 5 == 4 else "press-2"
        await stores.twins.put_event("north", asset, alert(f"hot-{number}", asset), 7)  # all in one millisecond

    async def pages(client: httpx.AsyncClient, query: str) -> list[list[str]]:
        found, after = [], 0
        while after is not None:
            page = (await client.get(f"/events?limit=6&after={after}&{query}")).json()
            found.append([event["document"]["id"] for event in page["events"]])
            after = page["next"]
        return found

    everything = [f"hot-{n}" for n in range(20)]
    assert [*chain(*await pages(api, ""))] == everything
    assert [*chain(*await pages(api, "asset=press-1"))] == everything[4::5]
    tokens = Tokens([Token("wallboard", digest("wall"), ("read:north/press-1",))])
    async with client_of(app_of(stores, tokens), "wall") as wallboard:
        assert await pages(wallboard, "") == [["hot-4"], ["hot-9"], ["hot-14"], ["hot-19"]]


async def test_api_says_503_while_the_store_is_away() -> None:
    broken = BrokenStore()
    async with client_of(make_app(broken, broken, broken, FakeClock(), None)) as client:
        for path in ("/healthz", "/twins"):
            answer = await client.get(path)
            assert (problem(answer), answer.json()["detail"]) == (503, "no disk")


# --- who may ask ----------------------------------------------------------------------------------


async def test_token_sees_what_it_was_granted_and_nothing_else(stores: RegistryStores) -> None:
    tokens = Tokens(
        [
            Token("wallboard", digest("wall"), ("read:north/press-1", "read:north/press-2")),
            Token("auditor", digest("audit"), ("audit",)),
        ]
    )
    for asset in ("press-1", "press-2", "press-3"):
        await stores.twins.put(twin(1, asset), 1)
        await stores.twins.put_event("north", asset, b"{}", 1)
        await stores.assets.put_asset("north", asset, b"{}", expected=0)
    app = app_of(stores, tokens)
    async with client_of(app, "wall") as wallboard, client_of(app, "audit") as auditor, client_of(app) as nobody:
        for path, key in (("/twins", "twins"), ("/events", "events"), ("/assets", "assets"), ("/tree", "nodes")):
            assert {line["asset"] for line in (await wallboard.get(path)).json()[key]} == {"press-1", "press-2"}
            assert (await auditor.get(path)).json()[key] == []
            assert problem(await nobody.get(path)) == 401
        for path in ("", "/history", "/series/TS1"):
            assert (await wallboard.get(f"/twins/north/press-1{path}")).status_code == 200
            assert problem(await wallboard.get(f"/twins/north/press-3{path}")) == 403
            assert problem(await wallboard.get(f"/twins/north/unknown{path}")) == 403  # tells nothing
        assert problem(await wallboard.put("/assets/north/press-1", content="{}", headers={"If-Match": '"1"'})) == 403
        assert problem(await wallboard.get("/accesses/1")) == 403
        assert problem(await wallboard.get("/accesses")) == 403
        assert (await auditor.get("/accesses")).json()["accesses"]
        assert (await nobody.get("/healthz")).status_code == 200
    async with client_of(app, "wrong") as stranger:
        assert problem(await stranger.get("/twins")) == 401


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o644, ""),
        (0o600, '[[token]]\nname = "x"\nsha256 = "short"\nscopes = []'),
        (0o600, f'[[token]]\nname = "x"\nsha256 = "{"a" * 64}"\nscopes = ["read:north"]'),
        (0o600, "token = {"),
    ],
)
def test_tokens_file_that_is_open_to_others_or_wrong_is_refused(tmp_path: Path, mode: int, text: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=str(file)):
        Tokens.load(file)


async def test_reads_are_logged_before_they_are_answered_and_a_root_proves_each(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    for number in range(5):
        await api.get(f"/twins?limit={number + 1}")
    assert await access_log.seal(stores.accesses, 77) is not None
    assert await access_log.seal(stores.accesses, 78) is None
    (root,) = (await api.get("/accesses/roots")).json()["roots"]
    assert (root["first"], root["last"], root["sealed_ms"]) == (1, 5, 77)
    for sequence in range(1, 6):
        found = (await api.get(f"/accesses/{sequence}")).json()
        (entry,) = await stores.accesses.accesses(after=sequence - 1, limit=1)
        assert found["entry"]["what"] == entry.what == f"GET /twins?limit={sequence}"
        path = [bytes.fromhex(sibling) for sibling in found["path"]]
        assert merkle.verify(root["root"], access_log.leaf(entry), path)
        forged = access_log.leaf(replace(entry, reader="somebody else"))
        assert not merkle.verify(root["root"], forged, path)
    assert problem(await api.get("/accesses/6")) == 404  # under no root yet
    page = (await api.get("/accesses?limit=2&after=3")).json()
    assert ([entry["sequence"] for entry in page["accesses"]], page["next"]) == ([4, 5], 5)
    assert page["accesses"][0]["reader"] == "anybody on this machine"


async def test_log_of_reads_goes_on_after_a_crash_and_proves_what_came_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/twins.sqlite"
    async with open_stores(url) as stores, client_of(app_of(stores)) as api:
        for _ in range(5):
            await api.get("/twins")
        await access_log.seal(stores.accesses, 1)
        await api.get("/events")  # sealed by nobody yet
    async with open_stores(url) as stores, client_of(app_of(stores)) as api:
        await api.get("/agents")
        root = await access_log.seal(stores.accesses, 2)
        assert root is not None
        assert (root.first, root.last) == (6, 7)
        for sequence in range(1, 8):
            proof = await access_log.prove(stores.accesses, sequence)
            assert proof is not None
            assert access_log.holds(proof)
            assert not access_log.holds(replace(proof, entry=replace(proof.entry, what="GET /nothing")))


async def test_entries_are_forgotten_with_their_root_so_that_what_is_kept_can_be_proved(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    for sealed_ms in (10, 20):
        await asyncio.gather(*(api.get("/twins") for _ in range(3)))
        await access_log.seal(stores.accesses, sealed_ms)
    await stores.accesses.drop_accesses(20)
    assert [await access_log.prove(stores.accesses, n) is not None for n in range(1, 7)] == [False] * 3 + [True] * 3
    assert len((await api.get("/accesses/roots")).json()["roots"]) == 2


# --- over the bus ---------------------------------------------------------------------------------


class RecordingBus:
    """What was published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Any, bytes | None]] = []

    async def publish(self, topic: str, payload: bytes, *, correlation: bytes | None = None, **more: object) -> None:
        self.published.append((topic, json.loads(payload), correlation))


async def test_questions_over_the_bus_see_the_site_of_the_topic_only(stores: RegistryStores) -> None:
    await stores.twins.put(twin(7), 1)
    bus = RecordingBus()
    answerer = Answerer(app_of(stores, Tokens([])), bus)

    async def ask(site: str, payload: bytes) -> tuple[int, Any]:
        question = BusMessage(topics.query_request(site, "wallboard"), payload, correlation=b"\x00 7")
        await answerer.hear(question)
        topic, answer, correlation = bus.published[-1]
        assert (topic, correlation) == (topics.query_response(site, "wallboard"), b"\x00 7")
        return answer["status"], answer["body"]

    status, body = await ask("north", b'{"get": "/twins/north/press-1"}')
    assert (status, body["twin"]["version"]) == (200, 7)
    assert (await ask("north", b'{"get": "/twins?where=TS1%3E-1"}'))[1]["twins"][0]["asset"] == "press-1"
    assert (await ask("south", b'{"get": "/twins/north/press-1"}'))[0] == 403
    assert (await ask("south", b'{"get": "/twins"}'))[1]["twins"] == []
    for stream in (b"/live", b"/%6cive", b"/live?site=north"):  # a stream over the bus would never end
        assert (await ask("north", b'{"get": "%b"}' % stream))[0] == 404
    for wrong in (b"", b"{", b'{"get": "x"}', b'{"put": "/assets/a/b"}', b'{"get": "/\xff"}', b'{"get": "//[::1"}'):
        assert (await ask("north", wrong))[0] in (400, 404)
    entries = await stores.accesses.accesses(after=0, limit=1)
    assert [(e.reader, e.what) for e in entries] == [("wallboard (bus)", "GET /twins/north/press-1")]


async def test_answer_that_is_too_large_for_the_bus_says_to_ask_for_less(
    stores: RegistryStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MAX_ANSWER_BYTES", 2000)
    for version in range(1, 10):
        await stores.twins.put(twin(version), 1)
    reader = Reader("wallboard (bus)", frozenset({"read:north/*"}))
    refused = await answering.ask(app_of(stores), PRESS + "/history", reader)
    assert (refused.status, b"limit" in bytes(refused.body)) == (413, True)
    assert (await answering.ask(app_of(stores), PRESS + "/history?limit=2", reader)).status == 200


async def test_fault_of_the_application_is_an_answer_and_no_crash() -> None:
    class Faulty:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a fault of ours")

    app = make_app(Faulty(), Faulty(), Faulty(), FakeClock(), None)
    with capture_logs() as said:
        answer = await answering.ask(app, "/agents", Reader("x", frozenset()))
    assert ("error", "RuntimeError('a fault of ours')") in [(line["log_level"], line.get("error")) for line in said]
    assert answer.status == 500
    assert b"a fault of ours" not in bytes(answer.body)


# --- any input ------------------------------------------------------------------------------------


TOKENS = Tokens([Token("somebody", digest("known"), ("read:*/*", "write:*/*", "audit"))])


@pytest.mark.parametrize(("tokens", "token"), [(None, ""), (TOKENS, "known"), (TOKENS, "")])
def test_any_request_that_the_schema_allows_or_forbids_is_answered_as_the_schema_says(
    tmp_path: Path, tokens: Tokens | None, token: str
) -> None:
    async def prepared() -> Any:
        stores = await stack.__aenter__()
        await stores.twins.put(twin(1), 1)
        await stores.twins.put_event("north", "press-1", alert("hot"), 1)
        return app_of(stores, tokens)

    stack = open_stores(f"sqlite:///{tmp_path}/twins.sqlite")
    with asyncio.Runner() as runner:
        app = runner.run(prepared())
        schema = schemathesis.openapi.from_dict(app.openapi())
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == 19

        @settings(max_examples=8, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def fuzz(data: st.DataObject) -> None:
            for operation in operations:
                case = data.draw(operation.as_strategy())
                answer = runner.run(_call(app, case, token))
                assert answer.status_code < 500, (case, answer.text)
                if tokens is not None and not token and operation.path not in OPEN_PATHS:
                    assert problem(answer) == 401
                said = schemathesis.Response.from_httpx(answer, verify=True)
                # Who may ask is held above, and a schema says neither what a condition is nor that one of two
                # headers is required.
                case.validate_response(said, excluded_checks=[ignored_auth, positive_data_acceptance])

        fuzz()
        runner.run(stack.__aexit__(None, None, None))


async def _call(app: Any, case: schemathesis.Case, token: str) -> httpx.Response:
    async with client_of(_to_the_first_words(app), token) as client:
        request = case.as_transport_kwargs(base_url="http://registry")
        return await client.request(
            request["method"],
            request["url"],
            params=request.get("params"),
            headers=dict(request.get("headers") or {}),
            content=json.dumps(request["json"]) if "json" in request else request.get("data"),
        )


def _to_the_first_words(app: Any) -> Any:
    """The application, for a client that leaves a stream (which never ends) after its first words."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        left = False

        async def told(event: Any) -> None:
            nonlocal left
            if left:
                return
            left = bool(event.get("more_body"))
            await send(event | {"more_body": False} if left else event)
            if left:
                answering.cancel()

        answering = asyncio.ensure_future(app(scope, receive, told))
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    return call
