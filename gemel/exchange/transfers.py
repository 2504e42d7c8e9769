"""Large payloads: the holder offers, the receiver pulls the chunks it lacks, spooled to bounded disk.

Files are named by digest: `out/<digest>` is offered, `in/<holder>-<digest>.part` is on its way, with `….have`
beside it naming the chunks that are here. So both sides go on after a crash where they were, and a holder that
announces another's transfer as its own gets into nobody's way.

What comes in is written as it comes and hashed from the disk: however many fetches run side by side, no payload is in
memory but those that `fetch` returns. For large ones, and for many at once, there is `fetched`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from pathlib import Path

import structlog

from gemel.errors import BusUnavailable, PeerError, Refused
from gemel.exchange.post import Post
from gemel.ports import BusMessage
from gemel.wire.chunks import CHUNK_BYTES, Assembly, Transfer, pack_chunk
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Fetch, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest

GATHER_S = 0.1  # how long the holder gathers requests, so that several receivers cost one sending
STALL_S = 2.0  # after so long without a chunk the receiver asks again for what is missing
CHUNKS_A_REQUEST = 64  # 8 MiB under way at most
SPOOL_BYTES = 4 << 30

ModelRequest = Callable[[Digest], Awaitable[None]]

log = structlog.get_logger(__name__)


class Transfers:
    """Offers and fetches of one party. `directory` is its spool; it never grows beyond `max_spool_bytes`.

    What is on its way counts with the length that was announced, from its beginning on.
    """

    def __init__(self, post: Post, directory: Path, *, max_spool_bytes: int = SPOOL_BYTES) -> None:
        self._post, self._max_spool_bytes = post, max_spool_bytes
        self._out, self._in = directory / "out", directory / "in"
        for folder in (self._out, self._in):
            folder.mkdir(parents=True, exist_ok=True)
        self._wanted: dict[Digest, set[int]] = {}
        self._fetching: set[str] = set()  # names of the files that are on their way
        self._taken = {path.name: path.stat().st_size for path in self._out.iterdir()}  # bytes, by file
        self._taken |= {path.stem: path.stat().st_size for path in self._in.glob("*.part")}
        self._wake = asyncio.Event()
        self._on_model: ModelRequest | None = None

    async def listen(self, requesters: Container[Address], on_model: ModelRequest | None = None) -> None:
        """Hear fetches by `requesters`; call once. Requests for a model by digest go to `on_model`."""
        self._on_model = on_model
        topic = self._post.topics.fetch(self._post.identity.address)
        await self._post.hear(topic, Kind.FETCH, requesters, self._asked)

    async def serve(self) -> None:
        """Send what was asked for, for ever."""
        while True:
            await self._wake.wait()
            await self._post.clock.sleep(GATHER_S)
            self._wake.clear()
            for digest in list(self._wanted):
                await self._send(digest, sorted(self._wanted.pop(digest)))

    async def _asked(self, envelope: Envelope) -> None:
        request = decode(Fetch, envelope.body)
        if request.model is not None and self._on_model is not None:
            await self._on_model(request.model)
        if request.transfer is None or not (self._out / request.transfer).exists():
            return  # not ours, withdrawn, or not offered yet: the receiver asks again
        total = Transfer(request.transfer, (self._out / request.transfer).stat().st_size).chunks
        wanted = self._wanted.setdefault(request.transfer, set())
        for start, stop in request.missing[:CHUNKS_A_REQUEST]:
            wanted.update(range(min(start, total), min(stop, total, start + CHUNKS_A_REQUEST)))
        self._wake.set()

    async def _send(self, digest: Digest, indices: list[int]) -> None:
        path = self._out / digest
        topic = self._post.topics.chunk(self._post.identity.address, digest)
        for index in indices:
            try:
                transfer, data = await asyncio.to_thread(_read_chunk, path, digest, index)
            except FileNotFoundError:
                return  # withdrawn meanwhile
            try:
                await self._post.bus.publish(topic, pack_chunk(transfer, index, data), expiry_s=60)
            except BusUnavailable as error:  # the receiver asks again
                log.warning("chunk not sent", transfer=digest, index=index, why=str(error))
                return

    async def offer(self, payload: bytes) -> Transfer:
        """Hold `payload` ready for whoever is told of it. Offering again changes nothing. Raises Refused(no_room)."""
        transfer = await asyncio.to_thread(describe, payload)
        self._take_room(transfer.digest, transfer.length)
        await asyncio.to_thread(_write_whole, self._out / transfer.digest, payload)
        return transfer

    async def offer_file(self, path: Path, transfer: Transfer) -> None:
        """As `offer`, a copy of a file that makes this transfer."""
        self._take_room(transfer.digest, transfer.length)
        await asyncio.to_thread(_copy_whole, self._out / transfer.digest, path)

    async def withdraw(self, transfer: Transfer) -> None:
        """Answer no more fetches of it."""
        await asyncio.to_thread((self._out / transfer.digest).unlink, missing_ok=True)
        self._taken.pop(transfer.digest, None)

    async def fetch(self, holder: Address, transfer: Transfer, *, max_bytes: int, deadline_s: float) -> bytes:
        """The payload, in memory; otherwise as `fetched`."""
        async with self.fetched(holder, transfer, max_bytes=max_bytes, deadline_s=deadline_s) as path:
            return await asyncio.to_thread(path.read_bytes)

    @contextlib.asynccontextmanager
    async def fetched(
        self, holder: Address, transfer: Transfer, *, max_bytes: int, deadline_s: float
    ) -> AsyncIterator[Path]:
        """The payload as a file, its digest checked, until the block ends. Asks `holder` until all chunks are here.

        Raises Refused: too_large, no_room (before a byte is asked for), missing (not all of it came in, right, in
        time).
        """
        if transfer.length > max_bytes:
            raise Refused(Reason.TOO_LARGE, f"{transfer.length} bytes announced, at most {max_bytes}")
        name = _name(holder, transfer)
        part = self._in / f"{name}.part"
        self._take_room(name, transfer.length)
        self._fetching.add(name)
        try:
            await self._fetch(holder, transfer, self._post.clock.monotonic_s() + deadline_s)
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)
        finally:
            self._fetching.discard(name)
            if part.exists():
                self._taken[name] = part.stat().st_size
            else:
                self._taken.pop(name, None)

    async def pass_on(self, transfer: Transfer, fetched: Path) -> None:
        """Offer what `fetched` gave, within its block; the file moves, and the room that it takes with it."""
        self._taken.pop(fetched.stem, None)
        self._taken[transfer.digest] = transfer.length
        await asyncio.to_thread(fetched.replace, self._out / transfer.digest)

    async def drop_unfinished(self) -> None:
        """Remove what has come of transfers that nobody fetches any more; for the end of a round."""

        def drop() -> None:
            for path in self._in.iterdir():
                if path.stem not in self._fetching:
                    path.unlink(missing_ok=True)
                    self._taken.pop(path.stem, None)

        await asyncio.to_thread(drop)

    async def _fetch(self, holder: Address, transfer: Transfer, give_up_s: float) -> None:
        while True:
            intake = _Intake(self._in, holder, transfer)
            await self._pull(holder, transfer, intake, give_up_s - self._post.clock.monotonic_s())
            if await asyncio.to_thread(intake.finish):
                return
            log.warning("transfer came in wrong, once more", holder=holder, transfer=transfer.digest)
            if self._post.clock.monotonic_s() >= give_up_s:  # an empty one is complete before any deadline strikes
                raise Refused(Reason.MISSING, f"nothing right came of {transfer.digest[:12]}")

    async def _pull(self, holder: Address, transfer: Transfer, intake: _Intake, deadline_s: float) -> None:
        topic = self._post.topics.chunk(holder, transfer.digest)

        async def receive(message: BusMessage) -> None:
            try:
                await intake.take(message.payload)
            except PeerError as error:
                log.warning("chunk refused", topic=message.topic, why=str(error))

        await self._post.bus.subscribe(topic, receive)
        try:
            async with asyncio.timeout(deadline_s):
                while not intake.complete:
                    await self._ask(holder, transfer, intake)
                    await intake.progress(STALL_S)
        except TimeoutError:
            raise Refused(Reason.MISSING, f"chunks {intake.missing[:3]} of {transfer.digest[:12]}") from None
        finally:
            await self._post.bus.unsubscribe(topic)

    async def _ask(self, holder: Address, transfer: Transfer, intake: _Intake) -> None:
        request = Fetch(transfer.digest, tuple(intake.missing[:CHUNKS_A_REQUEST]))
        topic = self._post.topics.fetch(holder, self._post.identity.address)
        await self._post.say(topic, Kind.FETCH, encode(request), expiry_s=10)

    def _take_room(self, name: str, length: int) -> None:
        others = sum(taken for file, taken in self._taken.items() if file != name)
        if others + length > self._max_spool_bytes:
            detail = f"{length} bytes, and {others} of the spool's {self._max_spool_bytes} are taken"
            raise Refused(Reason.NO_ROOM, detail)
        self._taken[name] = length


class _Intake:
    """One transfer on its way in: bytes in a part file, chunk numbers beside it."""

    def __init__(self, folder: Path, holder: Address, transfer: Transfer) -> None:
        self._transfer = transfer
        name = _name(holder, transfer)
        self._part, self._have = folder / f"{name}.part", folder / f"{name}.have"
        self._assembly = Assembly(transfer)
        self._moved = asyncio.Event()
        self._writing = 0  # chunks that are accepted but not in the file yet
        if self._part.exists() and self._have.exists():
            raw = self._have.read_bytes()
            numbers = (int.from_bytes(raw[i : i + 4], "big") for i in range(0, len(raw) - 3, 4))
            self._assembly.have.update(n for n in numbers if n < transfer.chunks)
        else:
            self._part.write_bytes(b"")
            self._have.write_bytes(b"")

    @property
    def complete(self) -> bool:
        return self._assembly.complete and not self._writing

    @property
    def missing(self) -> list[tuple[int, int]]:
        return self._assembly.missing

    async def take(self, message: bytes) -> None:
        accepted = self._assembly.accept(message)
        if accepted is not None:
            self._writing += 1
            await asyncio.to_thread(self._write, *accepted)
            self._writing -= 1
        self._moved.set()

    def _write(self, offset: int, data: bytes) -> None:
        with self._part.open("r+b") as part:
            part.seek(offset)
            part.write(data)
        with self._have.open("ab") as have:
            have.write((offset // CHUNK_BYTES).to_bytes(4, "big"))

    async def progress(self, stall_s: float) -> None:
        """Return when all is here, or when nothing has come for `stall_s`."""
        with contextlib.suppress(TimeoutError):
            while not self.complete:
                self._moved.clear()
                async with asyncio.timeout(stall_s):
                    await self._moved.wait()

    def finish(self) -> bool:
        """Whether the part file is the payload; one that is not goes."""
        with self._part.open("rb") as part:
            right = hashlib.file_digest(part, "sha256").hexdigest() == self._transfer.digest
        self._have.unlink()
        if not right:
            self._part.unlink()
        return right


def _name(holder: Address, transfer: Transfer) -> str:
    return f"{holder}-{transfer.digest}"


def describe(payload: bytes) -> Transfer:
    """The transfer that a payload makes."""
    return Transfer(hashlib.sha256(payload).hexdigest(), len(payload))


def _write_whole(path: Path, payload: bytes) -> None:
    if path.exists():
        return
    scratch = path.with_suffix(".new")
    scratch.write_bytes(payload)
    scratch.rename(path)


def _copy_whole(path: Path, source: Path) -> None:
    if path.exists():
        return
    scratch = path.with_suffix(".new")
    shutil.copyfile(source, scratch)
    scratch.rename(path)


def _read_chunk(path: Path, digest: Digest, index: int) -> tuple[Transfer, bytes]:
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(index * CHUNK_BYTES)
        return Transfer(digest, length), file.read(CHUNK_BYTES)
