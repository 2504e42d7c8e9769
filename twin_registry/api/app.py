"""The ASGI application, put together."""

from __future__ import annotations

from fastapi import FastAPI
from prometheus_client import Gauge

from gemel.ports import AccessStore, AssetStore, Clock, TwinStore
from twin_registry.api.openapi import described
from twin_registry.api.problems import tell_errors
from twin_registry.api.routes import RESOURCES
from twin_registry.api.visits import Desk
from twin_registry.library import Library
from twin_registry.live import Live
from twin_registry.tokens import Tokens


def make_app(
    twins: TwinStore,
    asset_store: AssetStore,
    accesses: AccessStore,
    clock: Clock,
    tokens: Tokens | None,
    *,
    broker: str = "mqtt://localhost:1883",
    live_readers: Gauge | None = None,
) -> FastAPI:
    """The ASGI application. Without `tokens` anybody who reaches it may read and declare everything.

    `broker` is where Thing Descriptions send their readers, `live_readers` the metric of those that listen.
    """
    app = FastAPI(title="Gemel twin registry", version="1", docs_url=None, redoc_url=None)
    library = Library(twins)
    live = Live(library, live_readers)
    app.state.desk = Desk(library, asset_store, accesses, clock, tokens, live, broker)
    for resource in RESOURCES:
        app.include_router(resource.router)
    tell_errors(app)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app
