"""The registry's application in this process, and what its tests say and ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from msgspec.structs import replace

from gemel.adapters.clock import FakeClock
from gemel.adapters.registry_stores import RegistryStores
from gemel.twin.alerts import event_to_json
from gemel.twin.state import Diagnosis, Property, Quality, Twin, blank
from tests.support.alerts import hot
from twin_registry.api import make_app
from twin_registry.tokens import Tokens


def twin(version: int, asset: str = "press-1", value: float = 0.0, condition: str = "good") -> Twin:
    """Revision `version` of a machine in the north: TS1 at that second, and a cooler."""
    reading = Property(value, "degC", version * 1000, version * 1000, Quality.GOOD)
    health = {"cooler": Diagnosis(condition, 0.9, (), version * 1000, Quality.GOOD)}
    return replace(blank("north", asset), version=version, properties={"TS1": reading}, health=health)


def alert(id_: str, asset: str = "press-1") -> bytes:
    """A hot machine in the north."""
    return event_to_json(hot(asset, id_))


def app_of(stores: RegistryStores, tokens: Tokens | None = None, **more: Any) -> FastAPI:
    """Without tokens, open to everybody."""
    return make_app(stores.twins, stores.assets, stores.accesses, FakeClock(), tokens, **more)


@asynccontextmanager
async def client_of(app: FastAPI, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client that reaches it without a socket."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://registry", headers=headers) as client:
        yield client


def problem(answer: httpx.Response) -> int:
    """The status of an answer that must be a problem (RFC 9457)."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert answer.json()["title"]
    assert answer.json()["detail"]
    return answer.status_code
