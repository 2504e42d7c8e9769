"""What the twin registry is told at start (TOML; see gemel/host/settings.py)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemel.host.settings import Port, ServiceSettings


class RegistrySettings(ServiceSettings):
    """The keys of the file."""

    api_host: str = "127.0.0.1"
    api_port: Port = 0  # 0: any free one; the log says which
    max_revisions: Annotated[int, Field(ge=1, le=100_000_000)] = 10_000  # kept of each machine
    max_machines: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
