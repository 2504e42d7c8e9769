"""Errors as they go out: problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gemel.errors import Malformed, Refused, StoreUnavailable
from twin_registry.api.answers import Problem


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(Problem.of(status, detail)), status, headers, media_type="application/problem+json"
    )


def tell_errors(app: FastAPI) -> None:
    """Let the application answer every error with a problem."""

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
