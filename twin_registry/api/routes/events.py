"""Alerts raised and cleared, and what agents say of themselves."""

from __future__ import annotations

from fastapi import APIRouter, Response

from twin_registry.api.answers import to_json
from twin_registry.api.openapi import get
from twin_registry.api.questions import LATEST_MS, MAX_LIMIT, After, From, Limit, Name, To
from twin_registry.api.visits import Asking
from twin_registry.library import Agents, Events

router = APIRouter()


@get(router, "/events", Events)
async def read_events(
    visit: Asking,
    site: Name = None,
    asset: Name = None,
    from_: From = 0,
    to: To = LATEST_MS,
    after: After = 0,
    limit: Limit = MAX_LIMIT,
) -> Response:
    """Alerts raised and cleared, oldest first. A page with a `next` may hold fewer than `limit`."""
    return to_json(
        await visit.desk.library.events(
            visit.may_read, site=site, asset=asset, from_ms=from_, to_ms=to, after=after, limit=limit
        )
    )


@get(router, "/agents", Agents)
async def list_agents(visit: Asking) -> Response:
    """What agents last said of themselves."""
    return to_json(await visit.desk.library.agents(visit.may_read))
