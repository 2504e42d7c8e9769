"""What a validator is told at start (TOML; see gemel/host/settings.py)."""

from __future__ import annotations

from pathlib import Path

from gemel.host.chain_party import ChainPartySettings
from gemel.host.settings import Seconds, Section


class RegistrySection(Section):
    """[registry]: where the plant's history is asked for, and the token that reads it. Only what-if needs it."""

    url: str
    token_file: Path | None = None


class ValidatorSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; the task, and a reference set that nobody else has."""

    task: str
    reference_file: Path
    statistics_file: Path | None = None  # approved statistics (`gemel statistics`), which M0 has to be normalised by
    standing_interval_s: Seconds = 30.0  # between two words on what the chain says, where nothing changes
    patience_s: Seconds = 10.0  # for the coordinator to hand in what we signed, before we do so ourselves
    registry: RegistrySection | None = None
