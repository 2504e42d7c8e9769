"""What happens, as it happens (twin_registry/live.py)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from twin_registry.api.questions import Name, Where, conditions_of
from twin_registry.api.visits import Asking
from twin_registry.library import Shown
from twin_registry.live import MAX_READERS, Wish
from twin_registry.where import fulfils

router = APIRouter()


@router.get(
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
    conditions, live = conditions_of(where), visit.desk.live
    if live.full:
        raise HTTPException(503, f"{MAX_READERS} are listening already", {"Retry-After": "60"})

    def of_these(at_site: str, of_asset: str) -> bool:
        place = site in (None, at_site) and asset in (None, of_asset)
        return place and visit.may_read(at_site, of_asset)

    def wanted(shown: Shown) -> bool:
        return of_these(shown.twin.site, shown.twin.asset) and fulfils(shown.twin, conditions)

    return StreamingResponse(
        live.events(Wish(wanted, of_these), int(last_event_id) if last_event_id else None),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
