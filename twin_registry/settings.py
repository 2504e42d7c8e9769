"""What the twin registry is told at start (TOML; see gemel/host/settings.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gemel.adapters.key_files import find
from gemel.adapters.sql_keep import Keep
from gemel.errors import ConfigError
from gemel.host.settings import BusSection, Port, Seconds, Section, ServiceSettings
from twin_registry.serving import Tls

_DAY_MS = 86_400_000
_Days = Annotated[float, Field(gt=0, le=36_600, allow_inf_nan=False)]


class KeepSection(Section):
    """[keep]: how much history, and for how long. Whole documents, readings, minutes gathered from them, events."""

    revisions_days: _Days = 30
    samples: Annotated[int, Field(ge=1)] = 10_000_000  # of each machine
    samples_days: _Days = 30
    minutes_days: _Days = 1830
    events: Annotated[int, Field(ge=1)] = 1_000_000
    events_days: _Days = 366
    accesses_days: _Days = 366  # the log of reads; the roots over it stay


class RegistryBusSection(BusSection):
    """[bus], with a wider window: one half shares a commit while the other comes in."""

    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 512


class RegistrySettings(ServiceSettings):
    """The keys of the file."""

    store_url: str = ""  # sqlite:///file or postgresql://…; empty: twins.sqlite in state_dir
    api_host: str = "127.0.0.1"
    api_port: Port = 0  # 0: any free one; the log says which
    api_cert_file: Path | None = None  # PEM; with api_key_file the API speaks TLS
    api_key_file: Path | None = None
    tokens_file: Path | None = None  # twin_registry/tokens.py; without it the API is this machine's alone
    public_broker: str = ""  # where Thing Descriptions send their readers; empty: bus.url
    max_revisions: Annotated[int, Field(ge=1, le=100_000_000)] = 10_000  # kept of each machine
    max_machines: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    keep: KeepSection = KeepSection()
    bus: RegistryBusSection = RegistryBusSection()
    tidy_s: Seconds = 60.0
    access_root_s: Seconds = 60.0

    def tls(self) -> Tls | None:
        """The API's certificate and key; systemd's copies where they are there. Raises ConfigError for half of it."""
        if self.api_cert_file is None and self.api_key_file is None:
            return None
        if self.api_cert_file is None or self.api_key_file is None:
            raise ConfigError("settings", "api_cert_file, api_key_file", "both, or neither")
        return Tls(find(self.api_cert_file, os.environ), find(self.api_key_file, os.environ))

    def kept(self) -> Keep:
        """For the store."""
        return Keep(
            machines=self.max_machines,
            revisions=self.max_revisions,
            samples=self.keep.samples,
            events=self.keep.events,
            revisions_ms=round(self.keep.revisions_days * _DAY_MS),
            samples_ms=round(self.keep.samples_days * _DAY_MS),
            minutes_ms=round(self.keep.minutes_days * _DAY_MS),
            events_ms=round(self.keep.events_days * _DAY_MS),
        )
