"""What was declared about assets: read, as a tree, as relations; declare."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from starlette.exceptions import HTTPException

from gemel.ports import AssetRecord
from twin_registry import assets
from twin_registry.api.answers import Assets, Relations, Tree, to_json
from twin_registry.api.etags import NOT_MODIFIED, IfNoneMatch, expected_revision, unless_known
from twin_registry.api.openapi import SCHEMAS, get
from twin_registry.api.questions import AssetName, Site
from twin_registry.api.visits import Asking, Visit

router = APIRouter()


async def _granted_assets(visit: Visit) -> list[AssetRecord]:
    return [r for r in await visit.desk.assets.assets() if visit.may_read(r.site, r.asset)]


@get(router, "/assets", Assets)
async def list_assets(visit: Asking) -> Response:
    """What was declared about the assets that were granted."""
    return to_json(Assets(await _granted_assets(visit)))


@get(router, "/tree", Tree)
async def read_tree(visit: Asking) -> Response:
    """The assets that were granted, each followed by what belongs to it."""
    return to_json(Tree(assets.tree(await _granted_assets(visit))))


@get(router, "/relations", Relations)
async def list_relations(
    visit: Asking,
    of: Annotated[str | None, Query(pattern=assets.PLACE, description="only those from or to north/tank")] = None,
    kind: Annotated[str | None, Query(max_length=64, description="only those of this kind")] = None,
) -> Response:
    """What the assets that were granted have to do with others, by who declared it."""
    links = assets.links(await _granted_assets(visit))
    return to_json(Relations([x for x in links if of in (None, x.source, x.target) and kind in (None, x.kind)]))


@get(router, "/assets/{site}/{asset}", AssetRecord, more=NOT_MODIFIED)
async def read_asset(visit: Asking, site: Site, asset: AssetName, if_none_match: IfNoneMatch = None) -> Response:
    """What was declared about one asset."""
    visit.require_read(site, asset)
    record = await visit.desk.assets.asset(site, asset)
    if record is None:
        raise HTTPException(404, "nothing was declared about this asset")
    return unless_known(if_none_match, f'"{record.revision}"', lambda: msgspec.json.encode(record))


@router.put(
    "/assets/{site}/{asset}",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": SCHEMAS[assets.Asset]}},
        }
    },
)
async def declare_asset(
    request: Request,
    visit: Asking,
    site: Site,
    asset: AssetName,
    if_match: Annotated[str | None, Header(description='the ETag that was looked at, as "3"')] = None,
    if_none_match: Annotated[str | None, Header(description="* where there must be none yet")] = None,
) -> Response:
    """Declare an asset, from the revision that was looked at."""
    if not visit.reader.may("write", site, asset):
        raise HTTPException(403, f"the token does not grant write:{site}/{asset}")
    standing = await visit.desk.assets.asset(site, asset)
    expected = expected_revision(0 if standing is None else standing.revision, if_match, if_none_match)
    declared = assets.from_json(await _body(request))
    if assets.closes_a_circle(site, asset, declared.parent, await visit.desk.assets.assets()):
        raise HTTPException(409, f"{site}/{asset} would belong to itself")
    document = msgspec.json.encode(declared, order="sorted")
    revision = await visit.desk.assets.put_asset(site, asset, document, expected=expected)
    if revision is None:
        raise HTTPException(412, "somebody has changed it since; read it again")
    return Response(status_code=204, headers={"ETag": f'"{revision}"'})


async def _body(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > assets.MAX_BYTES:
            raise HTTPException(413, f"at most {assets.MAX_BYTES} bytes")
    return data
