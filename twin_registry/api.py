"""The registry's HTTP API: JSON, described by /openapi.json.

    GET  /twins?where=TS1>40&where=…                   list and search (twin_registry/where.py)
    GET  /twins/{site}/{asset}?at=|revision=           a twin now, at a time, at a revision; ETag
    GET  /twins/{site}/{asset}/history                 its revisions
    GET  /twins/{site}/{asset}/series/{property}       one property's readings, as they came or in steps
    GET  /twins/{site}/{asset}/thing-description       the twin as a W3C Thing Description
    GET  /twins/{site}/{asset}/asset-shell             the twin as an Asset Administration Shell (the `aas` extra)
    GET  /schemas/twin/1                               the JSON Schema that twins and what goes with them follow
    GET  /events, /agents                              alerts raised and cleared; what agents say of themselves
    GET  /assets, /tree, /assets/{site}/{asset}        what was declared about assets; ETag
    GET  /relations?of=north/tank                      what feeds what, both ways
    PUT  /assets/{site}/{asset}                        declare it; If-Match or If-None-Match
    GET  /live                                         Server-Sent Events; Last-Event-ID resumes (live.py)
    GET  /accesses, /accesses/roots                    the log of reads, and the Merkle roots over it
    GET  /accesses/{sequence}                          an entry with its proof
    GET  /healthz                                      200 while the store answers, 503 otherwise

Who asks says so with `Authorization: Bearer TOKEN` and sees what that token was granted (twin_registry/tokens.py).
Every read stands in the log before its answer goes out. Errors are problem details (RFC 9457). The schema and the
health need no token: they tell nothing of the plant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import StreamingResponse
from prometheus_client import Gauge
from starlette.exceptions import HTTPException

from gemel.errors import ConfigError, Malformed, Refused, StoreUnavailable
from gemel.ports import Access, AccessRoot, AccessStore, AssetRecord, AssetStore, Clock, TwinStore
from gemel.twin import asset_shell, thing_description
from gemel.twin.schema import schema_text
from gemel.wire.types import Count, sha256
from twin_registry import access_log, assets
from twin_registry.library import Agents, Events, Library, Lines, Revisions, Series, Shown
from twin_registry.live import MAX_READERS, Live, Wish
from twin_registry.tokens import ANYBODY, Reader, Tokens
from twin_registry.where import Condition, fulfils, parse

MAX_LIMIT: Final = 1000
MAX_CONDITIONS: Final = 16
LATEST_MS: Final = 2**53
MAX_LOGGED: Final = 1024  # characters of a question
SCHEMA_PATH: Final = "/schemas/twin/1"  # the number is that of gemel.twin/1
OPEN_PATHS: Final = ("/healthz", SCHEMA_PATH)  # to everybody
READER_IN_SCOPE: Final = "gemel.reader"  # set by whoever asks from within this process, for somebody it knows

Site = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
AssetName = Annotated[str, Path(alias="asset", pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Property = Annotated[str, Path(alias="property", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str | None, Query(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Where = Annotated[list[str], Query(max_length=MAX_CONDITIONS, description="TS1>40; all must hold")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
From = Annotated[int, Query(alias="from", ge=0, le=LATEST_MS, description="milliseconds since 1970")]
To = Annotated[int, Query(alias="to", ge=0, le=LATEST_MS, description="milliseconds since 1970; exclusive")]
Number = Annotated[int, Query(ge=0, le=LATEST_MS)]
After = Annotated[int, Query(ge=0, le=LATEST_MS, description="`next` of the page before")]
IfNoneMatch = Annotated[str | None, Header(description="ETags that are known; 304 where one of them stands")]
_NOT_MODIFIED: Final[dict[int | str, Any]] = {304: {"description": "If-None-Match names what stands"}}


class Problem(msgspec.Struct, frozen=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> Self:
        """Of no other kind than its status says."""
        return cls("about:blank", HTTPStatus(status).phrase, status, detail)


class Assets(msgspec.Struct, frozen=True):
    """What was declared."""

    assets: Sequence[AssetRecord]


class Tree(msgspec.Struct, frozen=True):
    """The assets, each followed by what belongs to it."""

    nodes: Sequence[assets.Node]


class Relations(msgspec.Struct, frozen=True):
    """What the assets have to do with each other."""

    relations: Sequence[assets.Link]


class Accesses(msgspec.Struct, frozen=True):
    """A page of the log of reads. `next`: where the next page begins (`after`), or null."""

    accesses: Sequence[Access]
    next: Count | None


class Roots(msgspec.Struct, frozen=True):
    """Merkle roots over the log of reads, oldest first."""

    roots: Sequence[AccessRoot]


class Health(msgspec.Struct, frozen=True):
    """The store answers."""

    status: str


_ANSWERS: Final = (
    Lines, Shown, Revisions, Series, Events, Agents, Assets, AssetRecord, Tree, Relations, Accesses, Roots,
    access_log.AccessProof, Health, Problem, assets.Asset,
)  # fmt: skip
_REFERENCES, _COMPONENTS = msgspec.json.schema_components(_ANSWERS, ref_template="#/components/schemas/{name}")
_SCHEMAS: Final[dict[Any, Any]] = dict(zip(_ANSWERS, _REFERENCES, strict=True))
_SCHEMA: Final = schema_text()
_SCHEMA_TAG: Final = f'"{sha256(_SCHEMA)[:16]}"'


@dataclass(frozen=True, slots=True)
class Desk:
    """What the answers come from."""

    library: Library
    assets: AssetStore
    accesses: AccessStore
    clock: Clock
    tokens: Tokens | None
    live: Live
    broker: str
    exporting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who may ask, at the desk."""

    reader: Reader
    desk: Desk


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
    app.include_router(_router)
    _tell_errors(app)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def _admitted(request: Request) -> Visit:
    """Who asks, once his question stands in the log."""
    desk = _desk(request)
    reader: Reader | None = request.scope.get(READER_IN_SCOPE)
    if reader is None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if desk.tokens is None:
            reader = ANYBODY
        elif scheme.lower() == "bearer":
            reader = desk.tokens.reader(token)
    if reader is None:
        raise HTTPException(401, "a token that is known: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
    query = f"?{request.url.query}" if request.url.query else ""
    what = f"{request.method} {request.url.path}{query}"[:MAX_LOGGED]
    await desk.accesses.log_access(desk.clock.now_ms(), reader.name, what)
    return Visit(reader, desk)


Asking = Annotated[Visit, Depends(_admitted)]
_router = APIRouter()
_Route = TypeVar("_Route", bound=Callable[..., Any])


def _get(
    path: str, answer: type, more: dict[int | str, Any] | None = None, media: str = "application/json"
) -> Callable[[_Route], _Route]:
    content = {media: {"schema": _SCHEMAS.get(answer, {"type": "object"})}}
    return _router.get(path, response_class=Response, responses={200: {"content": content}, **(more or {})})


@_get("/twins", Lines)
async def list_twins(
    visit: Asking,
    where: Where = [],  # noqa: B006  FastAPI copies it
    site: Name = None,
    after: Annotated[str, Query(max_length=129, description="`next` of the page before")] = "",
    limit: Limit = MAX_LIMIT,
) -> Response:
    """The twins that were granted and fulfil every condition, by place."""
    conditions = _conditions(where)
    return _json(
        await visit.desk.library.lines(
            _reads(visit.reader), site=site, conditions=conditions, after=after, limit=limit
        )
    )


@_get("/twins/{site}/{asset}", Shown, more=_NOT_MODIFIED)
async def read_twin(
    visit: Asking,
    site: Site,
    asset: AssetName,
    at: Annotated[int | None, Query(ge=0, le=LATEST_MS, description="milliseconds since 1970")] = None,
    revision: Annotated[int | None, Query(ge=1, le=LATEST_MS)] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A twin now, or as it stood at a time or at a revision of the registry."""
    _require(visit.reader, site, asset)
    if at is None and revision is None:
        shown = await visit.desk.library.twin(site, asset)
    else:
        shown = await visit.desk.library.past(site, asset, at_ms=at, number=revision)
    if shown is None:
        raise HTTPException(404, "no such twin, or not at that moment")
    return _unless_known(if_none_match, _tag(shown), lambda: msgspec.json.encode(shown))


@_get("/twins/{site}/{asset}/history", Revisions)
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
    _require(visit.reader, site, asset)
    return _found(
        await visit.desk.library.revisions(site, asset, from_ms=from_, to_ms=to, after=after, limit=limit), "twin"
    )


@_get("/twins/{site}/{asset}/series/{property}", Series)
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
    _require(visit.reader, site, asset)
    page = await visit.desk.library.series(
        site, asset, name, step_ms=step_s * 1000, from_ms=from_, to_ms=to, limit=limit
    )
    return _found(page, "twin")


# --- in the words of standards ----------------------------------------------------------------


@_get("/twins/{site}/{asset}/thing-description", dict, more=_NOT_MODIFIED, media="application/td+json")
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


@_get(
    "/twins/{site}/{asset}/asset-shell",
    dict,
    more=_NOT_MODIFIED | {501: {"description": "the registry was installed without the `aas` extra"}},
)
async def describe_asset(visit: Asking, site: Site, asset: AssetName, if_none_match: IfNoneMatch = None) -> Response:
    """The twin as an AAS environment (metamodel 3): a shell with its readings and its health."""
    shown = await _standing(visit, site, asset)
    try:
        return await _exported(visit, if_none_match, _tag(shown), lambda: asset_shell.to_json(shown.twin))
    except ConfigError as error:
        raise HTTPException(501, str(error)) from error


@_get(SCHEMA_PATH, dict, more=_NOT_MODIFIED, media="application/schema+json")
async def read_schema(if_none_match: IfNoneMatch = None) -> Response:
    """The JSON Schema (draft 2020-12) of twins, deltas, events and desired values."""
    return _unless_known(if_none_match, _SCHEMA_TAG, lambda: _SCHEMA, "application/schema+json")


async def _exported(
    visit: Visit, if_none_match: str | None, tag: str, make: Callable[[], bytes], media_type: str = "application/json"
) -> Response:
    """In a thread, one at a time: a wide twin takes seconds, and so does loading the SDK."""
    if if_none_match is not None and _names(if_none_match, tag, weak=True):
        return _not_modified(tag)
    async with visit.desk.exporting:
        document = await asyncio.to_thread(make)
    return Response(document, media_type=media_type, headers={"ETag": tag})


async def _standing(visit: Visit, site: str, asset: str) -> Shown:
    _require(visit.reader, site, asset)
    shown = await visit.desk.library.twin(site, asset)
    if shown is None:
        raise HTTPException(404, "no such twin")
    return shown


@_get("/events", Events)
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
    granted = _reads(visit.reader)
    return _json(
        await visit.desk.library.events(
            granted, site=site, asset=asset, from_ms=from_, to_ms=to, after=after, limit=limit
        )
    )


@_get("/agents", Agents)
async def list_agents(visit: Asking) -> Response:
    """What agents last said of themselves."""
    return _json(await visit.desk.library.agents(_reads(visit.reader)))


# --- assets -----------------------------------------------------------------------------------


async def _granted_assets(visit: Visit) -> list[AssetRecord]:
    return [r for r in await visit.desk.assets.assets() if visit.reader.may("read", r.site, r.asset)]


@_get("/assets", Assets)
async def list_assets(visit: Asking) -> Response:
    """What was declared about the assets that were granted."""
    return _json(Assets(await _granted_assets(visit)))


@_get("/tree", Tree)
async def read_tree(visit: Asking) -> Response:
    """The assets that were granted, each followed by what belongs to it."""
    return _json(Tree(assets.tree(await _granted_assets(visit))))


@_get("/relations", Relations)
async def list_relations(
    visit: Asking,
    of: Annotated[str | None, Query(pattern=assets.PLACE, description="only those from or to north/tank")] = None,
    kind: Annotated[str | None, Query(max_length=64, description="only those of this kind")] = None,
) -> Response:
    """What the assets that were granted have to do with others, by who declared it."""
    links = assets.links(await _granted_assets(visit))
    return _json(Relations([x for x in links if of in (None, x.source, x.target) and kind in (None, x.kind)]))


@_get("/assets/{site}/{asset}", AssetRecord, more=_NOT_MODIFIED)
async def read_asset(visit: Asking, site: Site, asset: AssetName, if_none_match: IfNoneMatch = None) -> Response:
    """What was declared about one asset."""
    _require(visit.reader, site, asset)
    record = await visit.desk.assets.asset(site, asset)
    if record is None:
        raise HTTPException(404, "nothing was declared about this asset")
    return _unless_known(if_none_match, f'"{record.revision}"', lambda: msgspec.json.encode(record))


@_router.put(
    "/assets/{site}/{asset}",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _SCHEMAS[assets.Asset]}},
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
    expected = _expected(0 if standing is None else standing.revision, if_match, if_none_match)
    declared = assets.from_json(await _body(request))
    if assets.closes_a_circle(site, asset, declared.parent, await visit.desk.assets.assets()):
        raise HTTPException(409, f"{site}/{asset} would belong to itself")
    document = msgspec.json.encode(declared, order="sorted")
    revision = await visit.desk.assets.put_asset(site, asset, document, expected=expected)
    if revision is None:
        raise HTTPException(412, "somebody has changed it since; read it again")
    return Response(status_code=204, headers={"ETag": f'"{revision}"'})


# --- live -------------------------------------------------------------------------------------


@_router.get(
    "/live",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch(
    visit: Asking,
    where: Where = [],  # noqa: B006  FastAPI copies it
    site: Name = None,
    asset: Name = None,
    last_event_id: Annotated[str, Header(pattern="^[0-9]{0,16}$")] = "",
) -> StreamingResponse:
    """Twins as they stand, then as they change, and alerts (Server-Sent Events). `where` is asked of twins alone."""
    conditions, live = _conditions(where), visit.desk.live
    if live.full:
        raise HTTPException(503, f"{MAX_READERS} are listening already", {"Retry-After": "60"})

    def of_these(at_site: str, of_asset: str) -> bool:
        place = site in (None, at_site) and asset in (None, of_asset)
        return place and visit.reader.may("read", at_site, of_asset)

    def wanted(shown: Shown) -> bool:
        return of_these(shown.twin.site, shown.twin.asset) and fulfils(shown.twin, conditions)

    return StreamingResponse(
        live.events(Wish(wanted, of_these), int(last_event_id) if last_event_id else None),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


# --- the log of reads -------------------------------------------------------------------------


@_get("/accesses", Accesses)
async def list_accesses(visit: Asking, after: After = 0, limit: Limit = MAX_LIMIT) -> Response:
    """Who read what, oldest first; what was read longer ago than is to be kept has gone."""
    _require_audit(visit.reader)
    found = await visit.desk.accesses.accesses(after=after, limit=limit)
    return _json(Accesses(found, found[-1].sequence if len(found) == limit else None))


@_get("/accesses/roots", Roots)
async def list_roots(visit: Asking, after: Number = 0, limit: Limit = 100) -> Response:
    """Merkle roots over the log of reads, oldest first."""
    return _json(Roots(await visit.desk.accesses.access_roots(after=after, limit=limit)))


@_get("/accesses/{sequence}", access_log.AccessProof)
async def prove_access(visit: Asking, sequence: Annotated[int, Path(ge=1, le=LATEST_MS)]) -> Response:
    """An entry of the log of reads, with its proof."""
    _require_audit(visit.reader)
    return _found(await access_log.prove(visit.desk.accesses, sequence), "entry under a root")


@_get("/healthz", Health)
async def health(request: Request) -> Response:
    """Whether the store answers."""
    await _desk(request).accesses.access_roots(after=0, limit=1)
    return _json(Health("ok"))


# --- answers --------------------------------------------------------------------------------------


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _tag(shown: Shown) -> str:
    return f'"{shown.revision}{"s" if shown.stale else ""}"'


def _unless_known(
    if_none_match: str | None, tag: str, make: Callable[[], bytes], media_type: str = "application/json"
) -> Response:
    if if_none_match is not None and _names(if_none_match, tag, weak=True):
        return _not_modified(tag)
    return Response(make(), media_type=media_type, headers={"ETag": tag})


def _not_modified(tag: str) -> Response:
    return Response(status_code=304, headers={"ETag": tag})


def _found(answer: msgspec.Struct | None, what: str) -> Response:
    if answer is None:
        raise HTTPException(404, f"there is no such {what}")
    return _json(answer)


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with our schemas, and problems in place of its own errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        problem = {"content": {"application/problem+json": {"schema": _SCHEMAS[Problem]}}}
        for path, operations in document["paths"].items():
            codes = [400, 503] if path in OPEN_PATHS else [400, 401, 403, 404, 503]
            for method, operation in operations.items():
                operation["responses"].pop("422", None)
                for code in codes if method == "get" else [*codes, 409, 412, 413, 428]:
                    operation["responses"][str(code)] = {"description": HTTPStatus(code).phrase, **problem}
                if path not in OPEN_PATHS:
                    operation["security"] = [{"token": []}]
        document["components"] = {
            "schemas": _COMPONENTS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        }
        app.openapi_schema = document
    return app.openapi_schema


# --- questions ------------------------------------------------------------------------------------


def _reads(reader: Reader) -> Callable[[str, str], bool]:
    return lambda site, asset: reader.may("read", site, asset)


def _require(reader: Reader, site: str, asset: str) -> None:
    if not reader.may("read", site, asset):
        raise HTTPException(403, f"the token does not grant read:{site}/{asset}")


def _require_audit(reader: Reader) -> None:
    if not reader.may_audit:
        raise HTTPException(403, "the token does not grant audit")


def _conditions(where: Sequence[str]) -> list[Condition]:
    return [parse(text) for text in where]


def _names(header: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of ETags names this one; `weak`: those that are marked so count, too (RFC 9110, 13.1)."""
    parts = (part.strip() for part in header.split(","))
    return any((part.removeprefix("W/") if weak else part) in (tag, "*") for part in parts)


def _expected(standing: int, if_match: str | None, if_none_match: str | None) -> int:
    """The revision that a change begins from (0: none). A condition must be given, lest two overwrite each other."""
    if if_match is None and if_none_match is None:
        raise HTTPException(428, "If-Match with the ETag that was looked at, or If-None-Match: *")
    tag = f'"{standing}"'
    if if_match is not None and not (standing and _names(if_match, tag, weak=False)):
        raise HTTPException(412, "the ETag is not what stands; read it again")
    if if_none_match is not None and standing and _names(if_none_match, tag, weak=True):
        raise HTTPException(412, "it has been declared already; read it")
    return standing


async def _body(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > assets.MAX_BYTES:
            raise HTTPException(413, f"at most {assets.MAX_BYTES} bytes")
    return data


# --- errors ---------------------------------------------------------------------------------------


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(Problem.of(status, detail)), status, headers, media_type="application/problem+json"
    )


def _tell_errors(app: FastAPI) -> None:
    def tell(kind: type[Exception], make: Callable[[Any], Response]) -> None:
        async def handler(_request: Request, error: Exception) -> Response:
            return make(error)

        app.add_exception_handler(kind, handler)

    tell(HTTPException, lambda e: _problem(e.status_code, str(e.detail), e.headers))
    tell(RequestValidationError, lambda e: _problem(400, _first_fault(e)))
    tell(Malformed, lambda e: _problem(400, str(e)))
    tell(Refused, lambda e: _problem(409, str(e)))
    tell(StoreUnavailable, lambda e: _problem(503, str(e)))
    tell(Exception, lambda _: _problem(500, "a fault of the registry's; its log says which"))


def _first_fault(error: RequestValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(str(part) for part in fault['loc'][1:])}: {fault['msg']}"
