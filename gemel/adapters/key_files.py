"""A party's two secrets on disk: who it is (secp256k1) and what it unwraps with (Curve25519).

One JSON file {"identity": hex, "box": hex}, made with mode 0600 and never over an existing one. A file that group
or others can read is refused: such a key is not a secret. Under systemd, LoadCredential= puts a copy into
$CREDENTIALS_DIRECTORY; `find` prefers that one.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from nacl.exceptions import CryptoError

from gemel.errors import ConfigError
from gemel.wire.boxes import box_key, new_secret
from gemel.wire.identity import Identity
from gemel.wire.types import BoxKey

_READABLE_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: str
    box: str


@dataclass(frozen=True, slots=True)
class Keys:
    """A party's keys. `repr` shows the public halves only."""

    identity: Identity
    box_secret: bytes

    @property
    def box(self) -> BoxKey:
        """The public half that others wrap for."""
        return box_key(self.box_secret)

    def __repr__(self) -> str:
        return f"Keys({self.identity!r}, box={self.box})"


def create(path: Path) -> Keys:
    """Make both keys from the system's randomness and write them. Raises ConfigError if the file exists."""
    keys = _File(identity=secrets.token_hex(32), box=new_secret().hex())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(
            str(path), "key file", f"a path that is free and can be written ({error.strerror})"
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(keys) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return load(path)


def load(path: Path) -> Keys:
    """Read the keys. Raises ConfigError: missing, readable by group or others, or not a key file."""
    source = str(path)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _READABLE_BY_OTHERS:
                raise ConfigError(source, "key file", "readable by its owner only (chmod 600)")
            content = file.read(4096)
    except OSError as error:
        raise ConfigError(source, "key file", f"a readable file ({error.strerror})") from error
    try:
        stored = msgspec.json.decode(content, type=_File)
        keys = Keys(Identity(bytes.fromhex(stored.identity)), bytes.fromhex(stored.box))
        _ = keys.box  # raises for a secret of another length
    except (msgspec.DecodeError, ValueError, CryptoError):
        # Not chained: the message of the cause may quote the secret.
        raise ConfigError(source, "identity, box", "two secrets of 64 hex digits each") from None
    return keys


def find(path: Path, environment: Mapping[str, str]) -> Path:
    """Where a secret's file is: a systemd credential of the same name if there is one, else `path` itself."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder is not None and (Path(folder) / path.name).is_file():
        return Path(folder) / path.name
    return path
