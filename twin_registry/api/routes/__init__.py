"""The API's paths, by resource: each file has its `router`."""

from __future__ import annotations

from typing import Final

from twin_registry.api.routes import accesses, assets, events, health, live, standards, twins

RESOURCES: Final = (twins, standards, events, assets, live, accesses, health)  # as they stand in /openapi.json
