"""What a question may hold: the parameters of paths and queries, with their bounds."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path, Query

from twin_registry.where import Condition, parse

MAX_LIMIT: Final = 1000
MAX_CONDITIONS: Final = 16
LATEST_MS: Final = 2**53

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


def conditions_of(where: Where) -> list[Condition]:
    """Raises Malformed."""
    return [parse(text) for text in where]
