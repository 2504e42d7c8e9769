"""The log of reads, and what proves its entries."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from twin_registry import access_log
from twin_registry.api.answers import Accesses, Roots, found, to_json
from twin_registry.api.openapi import get
from twin_registry.api.questions import LATEST_MS, MAX_LIMIT, After, Limit, Number
from twin_registry.api.visits import Asking

router = APIRouter()


@get(router, "/accesses", Accesses)
async def list_accesses(visit: Asking, after: After = 0, limit: Limit = MAX_LIMIT) -> Response:
    """Who read what, oldest first; what was read longer ago than is to be kept has gone."""
    visit.require_audit()
    entries = await visit.desk.accesses.accesses(after=after, limit=limit)
    return to_json(Accesses(entries, entries[-1].sequence if len(entries) == limit else None))


@get(router, "/accesses/roots", Roots)
async def list_roots(visit: Asking, after: Number = 0, limit: Limit = 100) -> Response:
    """Merkle roots over the log of reads, oldest first."""
    return to_json(Roots(await visit.desk.accesses.access_roots(after=after, limit=limit)))


@get(router, "/accesses/{sequence}", access_log.AccessProof)
async def prove_access(visit: Asking, sequence: Annotated[int, Path(ge=1, le=LATEST_MS)]) -> Response:
    """An entry of the log of reads, with its proof."""
    visit.require_audit()
    return found(await access_log.prove(visit.desk.accesses, sequence), "entry under a root")
