"""The description at /openapi.json: FastAPI's, with our schemas, and problems in place of its own errors."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi

from gemel.ports import AssetRecord
from twin_registry import assets
from twin_registry.access_log import AccessProof
from twin_registry.api.answers import Accesses, Assets, Health, Problem, Relations, Roots, Tree
from twin_registry.library import Agents, Events, Lines, Revisions, Series, Shown

SCHEMA_PATH: Final = "/schemas/twin/1"  # the number is that of gemel.twin/1
OPEN_PATHS: Final = ("/healthz", SCHEMA_PATH)  # to everybody

_ANSWERS: Final = (
    Lines, Shown, Revisions, Series, Events, Agents, Assets, AssetRecord, Tree, Relations, Accesses, Roots,
    AccessProof, Health, Problem, assets.Asset,
)  # fmt: skip
_REFERENCES, _COMPONENTS = msgspec.json.schema_components(_ANSWERS, ref_template="#/components/schemas/{name}")
SCHEMAS: Final[dict[Any, Any]] = dict(zip(_ANSWERS, _REFERENCES, strict=True))
_Route = TypeVar("_Route", bound=Callable[..., Any])


def get(
    router: APIRouter,
    path: str,
    answer: type,
    more: dict[int | str, Any] | None = None,
    media: str = "application/json",
) -> Callable[[_Route], _Route]:
    """A route of `router` that answers with `answer` and is described so; `more`: by status, what else may come."""
    content = {media: {"schema": SCHEMAS.get(answer, {"type": "object"})}}
    return router.get(path, response_class=Response, responses={200: {"content": content}, **(more or {})})


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with our schemas, and problems in place of its own errors."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        problem = {"content": {"application/problem+json": {"schema": SCHEMAS[Problem]}}}
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
