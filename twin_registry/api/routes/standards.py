"""Twins in the words of standards, and the schema that they follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from gemel.errors import ConfigError
from gemel.twin import asset_shell, thing_description
from gemel.twin.schema import schema_text
from gemel.wire.types import sha256
from twin_registry.api.etags import NOT_MODIFIED, IfNoneMatch, names, not_modified, tag_of, unless_known
from twin_registry.api.openapi import SCHEMA_PATH, get
from twin_registry.api.questions import AssetName, Site
from twin_registry.api.visits import Asking, Visit
from twin_registry.library import Shown

router = APIRouter()
_SCHEMA: Final = schema_text()
_SCHEMA_TAG: Final = f'"{sha256(_SCHEMA)[:16]}"'


@get(router, "/twins/{site}/{asset}/thing-description", dict, more=NOT_MODIFIED, media="application/td+json")
async def describe_thing(visit: Asking, site: Site, asset: AssetName, if_none_match: IfNoneMatch = None) -> Response:
    """The twin as a W3C Thing Description 1.1: where and how to read, watch and set the machine over MQTT."""
    shown = await _standing(visit, site, asset)
    tag = f'"{shown.revision}"'
    return await _exported(
        visit,
        if_none_match,
        tag,
        lambda: thing_description.to_json(shown.twin, visit.desk.broker),
        "application/td+json",
    )


@get(
    router,
    "/twins/{site}/{asset}/asset-shell",
    dict,
    more=NOT_MODIFIED | {501: {"description": "the registry was installed without the `aas` extra"}},
)
async def describe_asset(visit: Asking, site: Site, asset: AssetName, if_none_match: IfNoneMatch = None) -> Response:
    """The twin as an AAS environment (metamodel 3): a shell with its readings and its health."""
    shown = await _standing(visit, site, asset)
    try:
        return await _exported(visit, if_none_match, tag_of(shown), lambda: asset_shell.to_json(shown.twin))
    except ConfigError as error:
        raise HTTPException(501, str(error)) from error


@get(router, SCHEMA_PATH, dict, more=NOT_MODIFIED, media="application/schema+json")
async def read_schema(if_none_match: IfNoneMatch = None) -> Response:
    """The JSON Schema (draft 2020-12) of twins, deltas, events and desired values."""
    return unless_known(if_none_match, _SCHEMA_TAG, lambda: _SCHEMA, "application/schema+json")


async def _exported(
    visit: Visit, if_none_match: str | None, tag: str, make: Callable[[], bytes], media_type: str = "application/json"
) -> Response:
    """In a thread, one at a time: a wide twin takes seconds, and so does loading the SDK."""
    if if_none_match is not None and names(if_none_match, tag, weak=True):
        return not_modified(tag)
    async with visit.desk.exporting:
        document = await asyncio.to_thread(make)
    return Response(document, media_type=media_type, headers={"ETag": tag})


async def _standing(visit: Visit, site: str, asset: str) -> Shown:
    visit.require_read(site, asset)
    shown = await visit.desk.library.twin(site, asset)
    if shown is None:
        raise HTTPException(404, "no such twin")
    return shown
