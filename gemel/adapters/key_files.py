"""A party's two secrets on disk: who it is (secp256k1) and what it unwraps with (Curve25519).

One JSON file {"identity": hex, "box": hex}, made with mode 0600 and never over an existing one. A file that others
can read is refused: such a key is not a secret (secret_files.py has the rule). A party that gets new keys has two
further files for a while, <name>.next.json and <name>.retired.json (`prepare_next`, `confirm_next`). Under systemd,
LoadCredential= puts a copy into $CREDENTIALS_DIRECTORY; `find` prefers that one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from nacl.exceptions import CryptoError

from gemel.adapters.secret_files import create_private, erase, read_private, sync_folder
from gemel.errors import ConfigError
from gemel.wire.boxes import box_key, new_secret
from gemel.wire.identity import Identity
from gemel.wire.types import BoxKey

_WHAT, _MOST_BYTES = "key file", 4096


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
    create_private(path, msgspec.json.encode(keys) + b"\n", _WHAT)
    return load(path)


def load(path: Path) -> Keys:
    """Read the keys. Raises ConfigError: missing, not private, or not a key file."""
    source, content = str(path), read_private(path, _WHAT, _MOST_BYTES)
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


# --- new keys for a party --------------------------------------------------------------------------


def next_path(path: Path) -> Path:
    """Where a party's next keys wait until they are registered."""
    return path.with_suffix(f".next{path.suffix}")


def retired_path(path: Path) -> Path:
    """Where a party's former keys are kept until somebody destroys them."""
    return path.with_suffix(f".retired{path.suffix}")


def prepare_next(path: Path) -> tuple[Keys, Keys]:
    """The keys in use, and new ones beside them; nothing that is in use changes. Called again, it gives the same.

    Raises ConfigError as `load`.
    """
    in_use, waiting = load(path), next_path(path)
    return in_use, load(waiting) if waiting.exists() else create(waiting)


def confirm_next(path: Path) -> Path:
    """Put the next keys in the place of those in use, which are kept beside them: where, is returned.

    At every moment `path` holds one pair or the other; after a crash call it again. Raises ConfigError: no next
    keys, or former ones still kept.
    """
    load(path)
    waiting, retired = next_path(path), retired_path(path)
    load(waiting)
    try:
        os.link(path, retired)
    except FileExistsError:
        if not retired.samefile(path):  # as a crash before the next step leaves it
            raise ConfigError(str(retired), _WHAT, "not there: destroy the former keys first") from None
    except OSError as error:
        raise ConfigError(str(retired), _WHAT, f"a path that can be written ({error.strerror})") from error
    waiting.replace(path)
    sync_folder(path.parent)
    return retired


def destroy(path: Path) -> Keys:
    """Overwrite and remove a key file; what it held is returned, for its public halves. Raises ConfigError."""
    keys = load(path)
    if path.stat().st_nlink > 1:  # it may be in use under its other name, whose bytes would go, too
        raise ConfigError(str(path), _WHAT, "a file of one name (finish with gemel keys confirm)")
    try:
        erase(path)
    except OSError as error:
        raise ConfigError(str(path), _WHAT, f"a file that can be overwritten ({error.strerror})") from error
    return keys
