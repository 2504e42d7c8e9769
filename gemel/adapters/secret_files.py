"""Files that hold a secret: made with mode 0600, read only while they are private, overwritten before they go.

Private is what neither group nor others may touch. What systemd hands over (LoadCredential=) belongs to root or the
service and has mode 0400, or 0440 where an ACL lets the service in: the ACL's mask shows as the group's bits, though
the group may not, and nobody else gets into $CREDENTIALS_DIRECTORY. There only the others' bits say anything.

What a file system or a disk keeps beside the file (journals, snapshots, backups, cells of flash that are spared for
wear) none of this reaches: docs/keys.md says what follows from it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gemel.errors import ConfigError


def create_private(path: Path, content: bytes, what: str) -> None:
    """Write a new file of mode 0600, durably. Raises ConfigError naming `what` if there is one already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(str(path), what, f"a path that is free and can be written ({error.strerror})") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read_private(path: Path, what: str, limit: int) -> bytes:
    """At most `limit` bytes. Raises ConfigError naming `what`: missing, or others than its owner may touch it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _bits_of_others(path):
                raise ConfigError(str(path), what, "readable by its owner only (chmod 600)")
            return file.read(limit)
    except OSError as error:
        raise ConfigError(str(path), what, f"a readable file ({error.strerror})") from error


def _bits_of_others(path: Path) -> int:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    handed_over = credentials is not None and path.parent == Path(credentials)
    return stat.S_IRWXO if handed_over else stat.S_IRWXG | stat.S_IRWXO


def erase(path: Path) -> None:
    """Overwrite with zeros and remove, durably; missing is fine. Raises OSError."""
    try:
        with path.open("r+b") as file:
            file.write(b"\0" * os.fstat(file.fileno()).st_size)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
