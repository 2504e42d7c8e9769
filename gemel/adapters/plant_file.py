"""`plant.toml`: who else is at the broker, beside the parties that `trust.json` names."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from gemel.errors import ConfigError
from gemel.wire.rights import Party


class _Plant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    party: tuple[Party, ...]


def read_plant(path: Path) -> tuple[Party, ...]:
    """A `[[party]]` for each, with the fields of `wire.rights.Party`. Raises ConfigError naming the file."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _Plant).party
    except OSError as error:
        raise ConfigError(str(path), "plant", f"a readable file ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigError(str(path), "plant", str(error)) from error
