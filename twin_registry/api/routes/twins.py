"""The twins: search, one now or in the past, its revisions, its properties' readings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from twin_registry.api.answers import found, to_json
from twin_registry.api.etags import NOT_MODIFIED, IfNoneMatch, tag_of, unless_known
from twin_registry.api.openapi import get
from twin_registry.api.questions import (
    LATEST_MS,
    MAX_LIMIT,
    AssetName,
    From,
    Limit,
    Name,
    Number,
    Property,
    Site,
    To,
    Where,
    conditions_of,
)
from twin_registry.api.visits import Asking
from twin_registry.library import Lines, Revisions, Series, Shown

router = APIRouter()


@get(router, "/twins", Lines)
async def list_twins(
    visit: Asking,
    where: Where = [],  # noqa: B006  FastAPI copies it
    site: Name = None,
    after: Annotated[str, Query(max_length=129, description="`next` of the page before")] = "",
    limit: Limit = MAX_LIMIT,
) -> Response:
    """The twins that were granted and fulfil every condition, by place."""
    conditions = conditions_of(where)
    return to_json(
        await visit.desk.library.lines(visit.may_read, site=site, conditions=conditions, after=after, limit=limit)
    )


@get(router, "/twins/{site}/{asset}", Shown, more=NOT_MODIFIED)
async def read_twin(
    visit: Asking,
    site: Site,
    asset: AssetName,
    at: Annotated[int | None, Query(ge=0, le=LATEST_MS, description="milliseconds since 1970")] = None,
    revision: Annotated[int | None, Query(ge=1, le=LATEST_MS)] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A twin now, or as it stood at a time or at a revision of the registry."""
    visit.require_read(site, asset)
    if at is None and revision is None:
        shown = await visit.desk.library.twin(site, asset)
    else:
        shown = await visit.desk.library.past(site, asset, at_ms=at, number=revision)
    if shown is None:
        raise HTTPException(404, "no such twin, or not at that moment")
    return unless_known(if_none_match, tag_of(shown), lambda: msgspec.json.encode(shown))


@get(router, "/twins/{site}/{asset}/history", Revisions)
async def read_history(
    visit: Asking,
    site: Site,
    asset: AssetName,
    from_: From = 0,
    to: To = LATEST_MS,
    after: Number = 0,
    limit: Limit = 100,
) -> Response:
    """A twin's revisions as the registry learnt of them; what an agent tells after an outage comes after it."""
    visit.require_read(site, asset)
    return found(
        await visit.desk.library.revisions(site, asset, from_ms=from_, to_ms=to, after=after, limit=limit), "twin"
    )


@get(router, "/twins/{site}/{asset}/series/{property}", Series)
async def read_series(
    visit: Asking,
    site: Site,
    asset: AssetName,
    name: Property,
    from_: From = 0,
    to: To = LATEST_MS,
    step_s: Annotated[
        int, Query(ge=0, le=366 * 86_400, multiple_of=60, description="0: as they came; else whole minutes")
    ] = 0,
    limit: Limit = MAX_LIMIT,
) -> Response:
    """One property's readings by source time, as they came or gathered in steps."""
    visit.require_read(site, asset)
    page = await visit.desk.library.series(
        site, asset, name, step_ms=step_s * 1000, from_ms=from_, to_ms=to, limit=limit
    )
    return found(page, "twin")
