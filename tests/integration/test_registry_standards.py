"""The registry's words in standards that others read: JSON Schema, Thing Description, Asset Administration Shell."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from basyx.aas import model
from basyx.aas.adapter.json import read_aas_json_file
from jsonschema import Draft202012Validator

from gemel.adapters.registry_stores import RegistryStores, open_stores
from gemel.twin import schema
from gemel.wire import topics
from tests.support.registry_api import alert, app_of, client_of, problem, twin
from twin_registry.tokens import Token, Tokens, digest

PAGE = Path(__file__).parents[2] / "docs" / "registry.md"
BROKER = "mqtts://broker.plant:8883"
PRESS = "/twins/north/press-1"


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[RegistryStores]:
    async with open_stores(f"sqlite:///{tmp_path}/twins.sqlite") as stores:
        await stores.twins.put(twin(1, value=50.0), 1)
        yield stores


@pytest.fixture
async def api(stores: RegistryStores) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(stores, broker=BROKER)) as client:
        yield client


async def test_schema_at_its_versioned_address_describes_what_the_api_answers(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    answer = await api.get("/schemas/twin/1")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json() == json.loads(schema.FILE.read_bytes())
    follows = Draft202012Validator(answer.json())
    follows.validate((await api.get(PRESS)).json()["twin"])
    assert not follows.is_valid((await api.get(PRESS)).json()["twin"] | {"version": "one"})
    await stores.twins.put_event("north", "press-1", alert("hot"), 1)
    event = Draft202012Validator({"$defs": answer.json()["$defs"], "$ref": "#/$defs/AlertEvent"})
    event.validate((await api.get("/events")).json()["events"][0]["document"])
    known = await api.get("/schemas/twin/1", headers={"If-None-Match": answer.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert problem(await api.get("/schemas/twin/2")) == 404


async def test_thing_description_says_where_the_plants_broker_has_the_twin(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    answer = await api.get(PRESS + "/thing-description")
    assert answer.headers["content-type"] == "application/td+json"
    described = answer.json()
    assert (described["title"], described["version"]) == ("north/press-1", {"instance": "1"})
    (form,) = described["properties"]["TS1"]["forms"]
    assert form["href"] == f"{BROKER}/{topics.twin_state('north', 'press-1')}"
    tag = answer.headers["etag"]
    known = {"If-None-Match": tag}
    assert (await api.get(PRESS + "/thing-description", headers=known)).status_code == 304
    await stores.twins.put(twin(2), 2)
    assert (await api.get(PRESS + "/thing-description", headers=known)).json()["version"] == {"instance": "2"}


async def test_asset_shell_is_read_back_by_the_standards_own_library(api: httpx.AsyncClient) -> None:
    answer = await api.get(PRESS + "/asset-shell")
    assert answer.headers["content-type"] == "application/json"
    objects = list(read_aas_json_file(io.StringIO(answer.text), failsafe=False))
    (readings,) = (o for o in objects if isinstance(o, model.Submodel) and o.id_short == "Readings")
    collection: Any = readings.get_referable("TS1")
    assert collection.get_referable("value").value == 50.0
    known = {"If-None-Match": answer.headers["etag"]}
    assert (await api.get(PRESS + "/asset-shell", headers=known)).status_code == 304


async def test_asset_shell_without_its_library_is_a_problem_that_names_it(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "basyx.aas", None)
    answer = await api.get(PRESS + "/asset-shell")
    assert (problem(answer), "gemel[aas]" in answer.json()["detail"]) == (501, True)


async def test_descriptions_are_for_those_who_may_read_the_twin_and_the_schema_for_everybody(
    stores: RegistryStores,
) -> None:
    app = app_of(stores, Tokens([Token("wallboard", digest("wall"), ("read:north/press-2",))]))
    async with client_of(app) as nobody, client_of(app, "wall") as wallboard:
        for path in ("/thing-description", "/asset-shell"):
            assert problem(await nobody.get(PRESS + path)) == 401
            assert problem(await wallboard.get(PRESS + path)) == 403
            assert problem(await wallboard.get(f"/twins/north/press-2{path}")) == 404
        assert (await nobody.get("/schemas/twin/1")).status_code == 200


async def test_every_address_in_the_page_about_the_registry_is_answered(
    stores: RegistryStores, api: httpx.AsyncClient
) -> None:
    for version in range(2, 8):
        await stores.twins.put(twin(version), version)
    for asset in ("press-1", "tank"):
        await stores.assets.put_asset("north", asset, b"{}", expected=0)
    asked = 0
    for line in PAGE.read_text().split("## Asking over MQTT")[0].splitlines():
        if line.startswith("| ") and "`/" in line and "`/live`" not in line:
            addresses = re.findall(r"`([/?][^`]*)`", line.replace("…", "0"))
            for address in addresses:
                path = addresses[0].split("?")[0] + address if address.startswith("?") else address
                assert (await api.get(path)).status_code == 200, path
                asked += 1
    assert asked >= 15
