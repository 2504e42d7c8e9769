"""Blobs as files named by their digest, in 256 folders: DIR/ab/ab34….

A file appears under its name only when all its bytes are on disk (temporary file, fsync, rename, fsync of the
folder), so a crash leaves a whole blob or none.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path

from gemel.errors import Refused, StoreUnavailable
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest, sha256

_DIGEST = re.compile(r"[0-9a-f]{64}")


class FileBlobs:
    """ports.Blobs in a directory, which is made if it is missing. File work runs in threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, data: bytes) -> Digest:
        """Store durably. Raises StoreUnavailable where the disk refuses."""
        digest = await asyncio.to_thread(sha256, data)
        try:
            await asyncio.to_thread(_write, self._path(digest), data)
        except OSError as error:
            raise StoreUnavailable(f"{self._directory}: {error}") from error
        return digest

    async def get(self, digest: Digest) -> bytes:
        """The bytes. Raises KeyError, Refused(digest_mismatch), StoreUnavailable."""
        path = self._path(digest)
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise KeyError(digest) from None
        except OSError as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        if await asyncio.to_thread(sha256, data) != digest:
            raise Refused(Reason.DIGEST_MISMATCH, f"{path} is not what its name says")
        return data

    async def has(self, digest: Digest) -> bool:
        """Whether there is a file of that digest (its bytes are checked by `get`)."""
        return await asyncio.to_thread(self._path(digest).is_file)

    async def drop(self, digest: Digest) -> None:
        """Remove; missing is fine."""
        try:
            await asyncio.to_thread(self._path(digest).unlink, True)
        except OSError as error:
            raise StoreUnavailable(f"{self._directory}: {error}") from error

    def _path(self, digest: Digest) -> Path:
        if not _DIGEST.fullmatch(digest):  # it becomes a file name: nothing else may get here
            raise KeyError(digest)
        return self._directory / digest[:2] / digest


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:  # a rotten file is written anew
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
