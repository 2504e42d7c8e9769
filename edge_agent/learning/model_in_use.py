"""The model that this agent runs: durable, swapped whole, and only ever for a later deployment."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import structlog

from gemel.errors import Refused, StoreUnavailable
from gemel.ports import Records
from gemel.twin.state import RunningModel
from gemel.wire.messages import decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest, sha256

_KIND, _KEY = "model", "in-use"
_log = structlog.get_logger("gemel.agent.model")


class InUse(msgspec.Struct, frozen=True):
    """A deployed model and the file that holds its safetensors bytes."""

    deployment: int
    digest: Digest
    path: Path

    @property
    def running(self) -> RunningModel:
        """As it stands in twin and status."""
        return RunningModel(self.digest, self.deployment)


class ModelInUse:
    """What `install` put in place last, across restarts. Begin with `await ModelInUse.load(records, folder)`.

    A swap is: the file whole on disk, then the record, then `current()`, then whoever waits. A crash in between
    leaves the old model or the new one.
    """

    def __init__(self, records: Records, folder: Path) -> None:
        self._records, self._folder = records, folder
        self._current: InUse | None = None
        self._deployment = 0
        self._changed = asyncio.Condition()

    @classmethod
    async def load(cls, records: Records, folder: Path) -> ModelInUse:
        """Read what is installed. A file that is gone or rotten leaves no model, but its number still counts.

        Raises StoreUnavailable where the disk refuses.
        """
        model = cls(records, folder)
        stored = await records.get(_KIND, _KEY)
        if stored is not None:
            running = decode(RunningModel, stored)
            model._deployment = running.deployment
            path = model._path(running.digest)
            if await asyncio.to_thread(_holds, path, running.digest):
                model._current = InUse(running.deployment, running.digest, path)
            else:
                _log.error("the installed model is gone or rotten", path=str(path), deployment=running.deployment)
        return model

    def current(self) -> InUse | None:
        """What runs now; None before the first deployment."""
        return self._current

    @property
    def deployment(self) -> int:
        """The highest deployment number that was ever installed; 0 before the first."""
        return self._deployment

    async def install(self, deployment: int, digest: Digest, model_bytes: bytes) -> InUse:
        """Put a model in use. Whether the chain approved it is the caller's to have checked.

        Raises Refused(not_above) for a number not above the one in use, Refused(digest_mismatch), StoreUnavailable.
        """
        async with self._changed:
            if deployment <= self._deployment:
                raise Refused(Reason.NOT_ABOVE, f"deployment {deployment}, {self._deployment} is in use")
            if sha256(model_bytes) != digest:
                raise Refused(Reason.DIGEST_MISMATCH, f"the model of deployment {deployment}")
            installed = InUse(deployment, digest, self._path(digest))
            try:
                await asyncio.to_thread(_write, installed.path, model_bytes)
            except OSError as error:
                raise StoreUnavailable(f"{self._folder}: {error}") from error
            await self._records.put(_KIND, _KEY, encode(installed.running))
            previous, self._current, self._deployment = self._current, installed, deployment
            self._changed.notify_all()
        if previous is not None and previous.path != installed.path:
            await asyncio.to_thread(previous.path.unlink, True)
        return installed

    async def other_than(self, seen: InUse | None) -> InUse:
        """The model in use, as soon as it is another than `seen`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._current is not None and self._current != seen)
            assert self._current is not None
            return self._current

    async def wait_for(self, digest: Digest) -> bytes:
        """The bytes of the model `digest`, as soon as it is the one in use. Raises StoreUnavailable."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._current is not None and self._current.digest == digest)
            assert self._current is not None
            try:
                return await asyncio.to_thread(self._current.path.read_bytes)
            except OSError as error:
                raise StoreUnavailable(f"{self._current.path}: {error}") from error

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.safetensors"


def _holds(path: Path, digest: Digest) -> bool:
    try:
        return sha256(path.read_bytes()) == digest
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
