"""What nobody should send reaches a registry: it answers, counts, keeps what is true and goes on."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from gemel.adapters.clock import FakeClock
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.adapters.registry_stores import open_stores
from gemel.errors import ConfigError
from gemel.host.metrics import Metrics
from gemel.ports import BusMessage
from gemel.twin.state import to_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.certificates import PlantCA
from tests.support.registry_api import alert, app_of, client_of, problem, twin
from tests.support.services import Registry, running, scrape
from twin_registry import access_log
from twin_registry.api import make_app
from twin_registry.keeping import Keeper
from twin_registry.serving import Tls, served

COME_S = 60
HOUR_MS = 3_600_000
MEGABYTE = b"x" * 1_000_000
DEEP = b"[" * 60_000
HOSTILE = {
    "one megabyte": b'{"schema":"gemel.twin/1","site":"' + MEGABYTE + b'"}',
    "deep": b'{"relations":' + DEEP,
    "deep and closed": b'{"properties":' + DEEP[:20_000] + b"]" * 20_000 + b"}",
    "utf-16": '{"title": "Halle"}'.encode("utf-16"),
    "latin-1": '{"title": "Öl"}'.encode("latin-1"),
    "half a character": b'{"title": "\xc3"}',
    "a lone surrogate": b'{"title": "\\ud800"}',
    "digits": b'{"version": ' + b"9" * 5000 + b"}",
    "nothing": b"",
    "zeros": b"\0" * 100,
}


@pytest.mark.broker
async def test_registry_outlives_hostile_messages_questions_and_requests(tmp_path: Path) -> None:
    async with (
        mosquitto(["allow_anonymous true"]) as broker,
        running(Registry(tmp_path, broker)) as registry,
        MqttBus(BusSettings(broker, "plant")) as bus,
        httpx.AsyncClient(timeout=COME_S) as http,
    ):
        assert isinstance(registry, Registry)
        answers: asyncio.Queue[BusMessage] = asyncio.Queue()
        await bus.subscribe(topics.query_response("north", "wallboard"), answers.put)
        hears = (
            topics.twin_state("north", "press-1"),
            topics.twin_event("north", "press-1"),
            topics.twin_backfill("north", "press-1"),
            topics.agent("north", "gw", "status"),
            topics.agent("north", "gw", "availability"),
        )
        for payload in HOSTILE.values():
            for topic in hears:
                await bus.publish(topic, payload)
            await bus.publish(topics.query_request("north", "wallboard"), payload, correlation=b"hostile")
        for name, payload in HOSTILE.items():
            refused = await http.put(
                f"{registry.url}/assets/north/press-1", content=payload, headers={"If-None-Match": "*"}
            )
            assert problem(refused) == (413 if len(payload) > 64 * 1024 else 400), name
            answer = await asyncio.wait_for(answers.get(), COME_S)
            assert (answer.correlation, json.loads(answer.payload)["status"]) == (b"hostile", 400), name

        sample = 'gemel_registry_messages_total{outcome="refused",reason="malformed"}'
        async with asyncio.timeout(COME_S):
            while await scrape(registry.metrics_port, sample) < len(HOSTILE) * len(hears):  # noqa: ASYNC110  another process's
                await asyncio.sleep(0.05)
        assert len([line for line in registry.log.splitlines() if "more of this kind are only counted" in line]) == 1

        await bus.publish(topics.twin_state("north", "press-1"), to_json(twin(1)))
        async with asyncio.timeout(COME_S):
            while (await http.get(f"{registry.url}/twins/north/press-1")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_twin_of_a_megabyte_is_kept_and_shown(tmp_path: Path) -> None:
    reading = twin(1).properties["TS1"]
    wide = replace(twin(1), properties={f"T{n:04}" + "x" * 50: reading for n in range(4096)})
    assert 500_000 < len(to_json(wide)) < 1_000_000
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores, client_of(app_of(stores)) as api:
        keeper = Keeper(stores.twins, FakeClock(), Metrics("test").registry_messages)
        await keeper.hear_twin(BusMessage(topics.twin_state("north", "press-1"), to_json(wide)))
        described = asyncio.create_task(api.get("/twins/north/press-1/thing-description"))
        for path in ("", "/history", "/series/T0000" + "x" * 50):
            assert (await api.get("/twins/north/press-1" + path)).status_code == 200
        assert (await described).status_code == 200


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
async def test_clock_that_steps_an_hour_and_back_loses_nothing_of_what_was_told(tmp_path: Path, step_ms: int) -> None:
    class Stepping(FakeClock):
        step_ms = 0

        def now_ms(self) -> int:
            return super().now_ms() + self.step_ms

    clock = Stepping(now_ms=10 * HOUR_MS)
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        app = make_app(stores.twins, stores.assets, stores.accesses, clock, None)
        keeper = Keeper(stores.twins, clock, Metrics("test").registry_messages)
        async with client_of(app) as api:
            for version, clock.step_ms in enumerate((0, step_ms, 0), 1):
                await keeper.hear_twin(BusMessage(topics.twin_state("north", "press-1"), to_json(twin(version))))
                await keeper.hear_event(BusMessage(topics.twin_event("north", "press-1"), alert(f"hot-{version}")))
                await stores.twins.tidy(clock.now_ms())
                await access_log.seal(stores.accesses, clock.now_ms())
                now = (await api.get("/twins/north/press-1")).json()
                assert now["twin"]["version"] == version
            revisions = (await api.get("/twins/north/press-1/history")).json()["revisions"]
            assert [r["twin"]["version"] for r in revisions] == [1, 2, 3]
            assert [r["received_ms"] for r in revisions] == sorted(r["received_ms"] for r in revisions)
            events = (await api.get("/events")).json()["events"]
            assert [event["document"]["id"] for event in events] == ["hot-1", "hot-2", "hot-3"]
            series = (await api.get("/twins/north/press-1/series/TS1")).json()["samples"]
            assert [sample["time_ms"] for sample in series] == [1000, 2000, 3000]
            buckets = (await api.get("/twins/north/press-1/series/TS1?step_s=60")).json()["buckets"]
            assert [bucket["count"] for bucket in buckets] == [3]
            for sequence in (1, 2):
                proof = await access_log.prove(stores.accesses, sequence)
                assert proof is not None
                assert access_log.holds(proof)


async def test_api_speaks_tls_and_says_what_is_wrong_with_a_certificate(tmp_path: Path) -> None:
    plant = PlantCA(tmp_path)
    cert_file, key_file = plant.leaf("registry")
    trusting = ssl.create_default_context(cafile=plant.ca_file)
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        app = app_of(stores)
        async with (
            served(app, "127.0.0.1", 0, Tls(cert_file, key_file)) as port,
            httpx.AsyncClient(verify=trusting) as client,
            httpx.AsyncClient() as stranger,
        ):
            assert (await client.get(f"https://127.0.0.1:{port}/healthz")).json() == {"status": "ok"}
            with pytest.raises(httpx.ConnectError):
                await stranger.get(f"https://127.0.0.1:{port}/healthz")
            with pytest.raises(httpx.RemoteProtocolError):
                await stranger.get(f"http://127.0.0.1:{port}/healthz")
        for wrong in (Tls(cert_file, cert_file), Tls(tmp_path / "none.pem", key_file)):
            with pytest.raises(ConfigError, match="a certificate and its key"):
                async with served(app, "127.0.0.1", 0, wrong):
                    pass
