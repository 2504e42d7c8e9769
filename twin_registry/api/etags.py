"""ETags: answers that the asker has already, and changes that begin from what was looked at (RFC 9110, 13)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Header, Response
from starlette.exceptions import HTTPException

from twin_registry.library import Shown

IfNoneMatch = Annotated[str | None, Header(description="ETags that are known; 304 where one of them stands")]
NOT_MODIFIED: Final[dict[int | str, Any]] = {
    304: {"description": "If-None-Match names what stands"}
}  # for `openapi.get`


def tag_of(shown: Shown) -> str:
    """It changes with the revision, and when the agent comes or goes."""
    return f'"{shown.revision}{"s" if shown.stale else ""}"'


def unless_known(
    if_none_match: str | None, tag: str, make: Callable[[], bytes], media_type: str = "application/json"
) -> Response:
    """What `make` makes, under its tag; 304 where the asker has it already."""
    if if_none_match is not None and names(if_none_match, tag, weak=True):
        return not_modified(tag)
    return Response(make(), media_type=media_type, headers={"ETag": tag})


def not_modified(tag: str) -> Response:
    """304."""
    return Response(status_code=304, headers={"ETag": tag})


def names(header: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of ETags names this one; `weak`: those that are marked so count, too (RFC 9110, 13.1)."""
    parts = (part.strip() for part in header.split(","))
    return any((part.removeprefix("W/") if weak else part) in (tag, "*") for part in parts)


def expected_revision(standing: int, if_match: str | None, if_none_match: str | None) -> int:
    """The revision that a change begins from (0: none). A condition must be given, lest two overwrite each other."""
    if if_match is None and if_none_match is None:
        raise HTTPException(428, "If-Match with the ETag that was looked at, or If-None-Match: *")
    tag = f'"{standing}"'
    if if_match is not None and not (standing and names(if_match, tag, weak=False)):
        raise HTTPException(412, "the ETag is not what stands; read it again")
    if if_none_match is not None and standing and names(if_none_match, tag, weak=True):
        raise HTTPException(412, "it has been declared already; read it")
    return standing
