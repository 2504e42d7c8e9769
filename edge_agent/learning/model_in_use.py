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
from gemel.wire.types import Count, Digest, sha256

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


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record: what runs, and what ran before."""

    digest: Digest
    deployment: Count
    before: RunningModel | None = None


class ModelInUse:
    """What `install` put in place last, across restarts. Begin with `await ModelInUse.load(records, folder)`.

    A swap is: the file whole on disk, then the record, then `current()`, then whoever waits. A crash in between
    leaves the old model or the new one. The model before stays on disk, so that going back needs no download.
    """

    def __init__(self, records: Records, folder: Path) -> None:
        self._records, self._folder = records, folder
        self._current: InUse | None = None
        self._before: InUse | None = None
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
            kept = decode(_Kept, stored)
            model._deployment = kept.deployment
            path = model._path(kept.digest)
            if await asyncio.to_thread(_holds, path, kept.digest):
                model._current = InUse(kept.deployment, kept.digest, path)
            else:
                _log.error("the installed model is gone or rotten", path=str(path), deployment=kept.deployment)
            if kept.before is not None:
                before = kept.before
                model._before = InUse(before.deployment, before.digest, model._path(before.digest))
        return model

    def current(self) -> InUse | None:
        """What runs now; None before the first deployment."""
        return self._current

    def before(self) -> InUse | None:
        """What ran before it; None where nothing did. Its file may be gone."""
        return self._before

    async def held(self, digest: Digest) -> bytes | None:
        """The bytes of a model that is still on disk, their digest checked; None for any other."""
        return await asyncio.to_thread(_read, self._path(digest), digest)

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
            same = self._current is not None and self._current.digest == digest
            before = self._before if same else self._current
            kept = _Kept(digest, deployment, before.running if before is not None else None)
            await self._records.put(_KIND, _KEY, encode(kept))
            self._current, self._before, self._deployment = installed, before, deployment
            self._changed.notify_all()
        await asyncio.to_thread(self._drop_others)
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

    def _drop_others(self) -> None:
        needed = {model.path for model in (self._current, self._before) if model is not None}
        for path in set(self._folder.glob("*.safetensors")) - needed:
            path.unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.safetensors"


def _holds(path: Path, digest: Digest) -> bool:
    return _read(path, digest) is not None


def _read(path: Path, digest: Digest) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if sha256(data) == digest else None


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
