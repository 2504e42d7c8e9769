"""The files of a founded fleet: their names, and reading them. Imports no chain client."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from gemel.adapters.chain_place import ChainPlace, read_chain_place
from gemel.errors import ConfigError
from gemel.wire.messages import Policy
from gemel.wire.trust import Trust, load_trust

TRUST_FILE, POLICY_FILE, CHAIN_FILE, EXPORT_FILE = "trust.json", "policy.json", "chain.json", "chain-export.json"
KEYS_FOLDER = "keys"

_T = TypeVar("_T", bound=msgspec.Struct)


def sealing_key_files(custodian: Path) -> list[Path]:
    """What a custodian with this state directory holds of sealing keys, by round; a crash may leave a .new one."""
    return sorted((custodian / KEYS_FOLDER).glob("round-*"))


def read(path: Path) -> bytes:
    """A file's bytes. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), "file", f"a readable file ({error.strerror})") from error


def read_trust(directory: Path) -> Trust:
    """Raises ConfigError."""
    path = directory / TRUST_FILE
    return load_trust(read(path), str(path))


def read_policy(directory: Path) -> Policy:
    """Raises ConfigError."""
    return _decode(directory / POLICY_FILE, Policy)


def read_place(directory: Path) -> ChainPlace:
    """Raises ConfigError."""
    return read_chain_place(directory / CHAIN_FILE)


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(read(path), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), kind.__name__, str(error)) from error
