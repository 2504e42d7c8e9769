from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.errors import Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers, describe
from gemel.ports import BusMessage
from gemel.wire.chunks import CHUNK_BYTES, Transfer, pack_chunk
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.identity import Identity
from gemel.wire.messages import Fetch, decode
from tests.support.brokers import embedded_broker
from tests.support.parties import AGENTS, COORDINATOR, TRUST

PAYLOAD = bytes(range(256)) * 2500  # five chunks, the last one short
HOLDER, RECEIVER = AGENTS[0], COORDINATOR


@contextlib.asynccontextmanager
async def party(url: str, identity: Identity, spool: Path, **limits: int) -> AsyncIterator[Transfers]:
    async with MqttBus(BusSettings(url=url, client_id=identity.address)) as bus:
        yield Transfers(Post(bus, TRUST, identity, SystemClock()), spool, **limits)


@contextlib.asynccontextmanager
async def holder(url: str, spool: Path, requesters: set[str]) -> AsyncIterator[Transfers]:
    async with party(url, HOLDER, spool) as transfers:
        await transfers.listen(requesters)
        serving = asyncio.create_task(transfers.serve())
        yield transfers
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@contextlib.asynccontextmanager
async def watching(url: str, topic: str) -> AsyncIterator[list[bytes]]:
    """Everything that travels on a topic."""
    seen: list[bytes] = []

    async def see(message: BusMessage) -> None:
        seen.append(message.payload)

    async with MqttBus(BusSettings(url=url, client_id="watcher")) as bus:
        await bus.subscribe(topic, see)
        yield seen


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """One number when the block has ended: how far Python's memory grew within it, in bytes."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


async def test_a_payload_of_many_chunks_is_pulled_whole(tmp_path: Path) -> None:
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        transfer = await offering.offer(PAYLOAD)
        async with party(url, RECEIVER, tmp_path / "b") as pulling:
            got = await pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=20)
            assert got == PAYLOAD
            assert list((tmp_path / "b" / "in").iterdir()) == []


async def test_a_fetch_begun_before_the_offer_succeeds_once_it_is_there(tmp_path: Path) -> None:
    async with (
        embedded_broker() as url,
        holder(url, tmp_path / "a", {RECEIVER.address}) as offering,
        party(url, RECEIVER, tmp_path / "b") as pulling,
    ):
        fetching = asyncio.create_task(
            pulling.fetch(HOLDER.address, describe(PAYLOAD), max_bytes=10**7, deadline_s=20)
        )
        await asyncio.sleep(0.5)
        await offering.offer(PAYLOAD)
        assert await fetching == PAYLOAD


async def test_what_never_became_whole_goes_when_its_round_is_over_and_what_is_under_way_stays(
    tmp_path: Path,
) -> None:
    """Else those who promise frames and never send them would fill the spool, round by round."""
    async with embedded_broker() as url, party(url, RECEIVER, tmp_path / "b") as pulling:
        given_up, under_way = describe(PAYLOAD), describe(PAYLOAD[1:])
        with pytest.raises(Refused, match="missing"):
            await pulling.fetch(HOLDER.address, given_up, max_bytes=10**7, deadline_s=0.2)
        fetching = asyncio.create_task(pulling.fetch(HOLDER.address, under_way, max_bytes=10**7, deadline_s=20))
        spool = tmp_path / "b" / "in"
        while len(list(spool.iterdir())) < 4:  # noqa: ASYNC110  two files of each, which nobody tells us of
            await asyncio.sleep(0.01)
        await pulling.drop_unfinished()
        assert {path.stem for path in spool.iterdir()} == {f"{HOLDER.address}-{under_way.digest}"}
        async with holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
            await offering.offer(PAYLOAD[1:])
            assert await fetching == PAYLOAD[1:]


async def test_a_receiver_that_starts_again_asks_only_for_what_it_lacks(tmp_path: Path) -> None:
    transfer = describe(PAYLOAD)
    spool = tmp_path / "b" / "in"
    spool.mkdir(parents=True)
    (spool / f"{HOLDER.address}-{transfer.digest}.part").write_bytes(PAYLOAD[:CHUNK_BYTES])
    (spool / f"{HOLDER.address}-{transfer.digest}.have").write_bytes((0).to_bytes(4, "big"))
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        await offering.offer(PAYLOAD)
        async with watching(url, offering._post.topics.chunk(HOLDER.address, transfer.digest)) as sent:
            async with party(url, RECEIVER, tmp_path / "b") as pulling:
                assert await pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=20) == PAYLOAD
            assert len(sent) == transfer.chunks - 1


async def test_a_spool_that_rotted_is_thrown_away_and_pulled_anew(tmp_path: Path) -> None:
    transfer = describe(PAYLOAD)
    spool = tmp_path / "b" / "in"
    spool.mkdir(parents=True)
    (spool / f"{HOLDER.address}-{transfer.digest}.part").write_bytes(b"\xff" * CHUNK_BYTES)
    (spool / f"{HOLDER.address}-{transfer.digest}.have").write_bytes((0).to_bytes(4, "big"))
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        await offering.offer(PAYLOAD)
        async with party(url, RECEIVER, tmp_path / "b") as pulling:
            assert await pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=20) == PAYLOAD


async def test_more_bytes_than_allowed_are_refused_before_any_is_asked_for(tmp_path: Path) -> None:
    async with embedded_broker() as url, party(url, RECEIVER, tmp_path, max_spool_bytes=1000) as pulling:
        topic = pulling._post.topics.fetch(HOLDER.address, RECEIVER.address)
        async with watching(url, topic) as asked:
            with pytest.raises(Refused, match="too_large"):
                await pulling.fetch(HOLDER.address, Transfer("0" * 64, 10**9), max_bytes=10**6, deadline_s=5)
            with pytest.raises(Refused, match="no_room"):
                await pulling.fetch(HOLDER.address, Transfer("0" * 64, 5000), max_bytes=10**6, deadline_s=5)
            with pytest.raises(Refused, match="missing"):  # this one may be asked for: the others would show, too
                await pulling.fetch(HOLDER.address, Transfer("1" * 64, 900), max_bytes=10**6, deadline_s=0.5)
        assert asked
        assert all(b"1" * 64 in request for request in asked)


async def test_room_is_kept_for_what_is_under_way_and_given_back_with_a_reason(tmp_path: Path) -> None:
    """Many holders at once: together they announce more than there is, before any of it has come."""
    async with embedded_broker() as url, party(url, RECEIVER, tmp_path, max_spool_bytes=10_000) as pulling:
        under_way = asyncio.create_task(
            pulling.fetch(HOLDER.address, Transfer("1" * 64, 6000), max_bytes=10**6, deadline_s=20)
        )
        await asyncio.sleep(0)
        with pytest.raises(Refused, match=r"no_room \(5000 bytes, and 6000 of the spool's 10000 are taken\)"):
            await pulling.fetch(HOLDER.address, Transfer("2" * 64, 5000), max_bytes=10**6, deadline_s=20)
        with pytest.raises(Refused, match="no_room"):
            await pulling.offer(bytes(4001))
        held = await pulling.offer(bytes(4000))
        assert await pulling.offer(bytes(4000)) == held  # once more takes no more
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
        with pytest.raises(Refused, match="no_room"):
            await pulling.offer(b"x" * 6001)
        await pulling.withdraw(held)
        await pulling.offer(b"x" * 10_000)


async def test_what_a_crash_left_in_the_spool_still_takes_room(tmp_path: Path) -> None:
    for folder, name in (("in", f"{HOLDER.address}-{'1' * 64}.part"), ("out", "2" * 64)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(bytes(300))
    async with embedded_broker() as url, party(url, RECEIVER, tmp_path, max_spool_bytes=1000) as pulling:
        with pytest.raises(Refused, match="600 of the spool's 1000 are taken"):
            await pulling.offer(bytes(401))
        await pulling.drop_unfinished()
        await pulling.withdraw(Transfer("2" * 64, 300))
        await pulling.offer(bytes(1000))


async def test_receiver_that_dies_in_the_middle_goes_on_from_the_chunks_it_has(tmp_path: Path) -> None:
    payload = bytes(range(256)) * 20_000  # forty chunks
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        transfer = await offering.offer(payload)
        async with watching(url, offering._post.topics.fetch(HOLDER.address, RECEIVER.address)) as asked:
            have = tmp_path / "b" / "in" / f"{HOLDER.address}-{transfer.digest}.have"
            async with party(url, RECEIVER, tmp_path / "b") as pulling:
                fetching = asyncio.create_task(
                    pulling.fetch(HOLDER.address, transfer, max_bytes=10**8, deadline_s=20)
                )
                while not have.exists() or have.stat().st_size < 4 * 4:  # noqa: ASYNC110  nobody tells us
                    await asyncio.sleep(0.001)
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
            raw = have.read_bytes()
            kept = {int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw) - 3, 4)}
            assert 4 <= len(kept) < transfer.chunks
            before = len(asked)
            async with party(url, RECEIVER, tmp_path / "b") as pulling:
                assert await pulling.fetch(HOLDER.address, transfer, max_bytes=10**8, deadline_s=20) == payload
            again = [decode(Fetch, request[HEADER_BYTES:]).missing for request in asked[before:]]
            assert again
            assert not kept & {index for ranges in again for span in ranges for index in range(*span)}


async def test_a_stranger_gets_no_chunk_and_says_what_is_missing(tmp_path: Path) -> None:
    async with embedded_broker() as url, holder(url, tmp_path / "a", requesters=set()) as offering:
        transfer = await offering.offer(PAYLOAD)
        async with party(url, RECEIVER, tmp_path / "b") as pulling:
            with pytest.raises(Refused, match="missing"):
                await pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=1)


async def test_chunks_that_do_not_fit_the_announcement_are_passed_over(tmp_path: Path) -> None:
    transfer = describe(PAYLOAD)
    async with (
        embedded_broker() as url,
        holder(url, tmp_path / "a", {RECEIVER.address}) as offering,
        party(url, RECEIVER, tmp_path / "b") as pulling,
    ):
        fetching = asyncio.create_task(pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=20))
        await asyncio.sleep(0.3)
        topic = pulling._post.topics.chunk(HOLDER.address, transfer.digest)
        for junk in (
            b"",
            b"GCHK",
            pack_chunk(transfer, 99, b"x" * CHUNK_BYTES),
            pack_chunk(transfer, 0, b"short"),
            pack_chunk(describe(b"other"), 0, b"other"),
        ):
            await pulling._post.bus.publish(topic, junk)
        await offering.offer(PAYLOAD)
        assert await fetching == PAYLOAD


async def test_a_withdrawn_payload_is_not_sent_any_more(tmp_path: Path) -> None:
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        transfer = await offering.offer(PAYLOAD)
        await offering.withdraw(transfer)
        async with party(url, RECEIVER, tmp_path / "b") as pulling:
            with pytest.raises(Refused, match="missing"):
                await pulling.fetch(HOLDER.address, transfer, max_bytes=10**7, deadline_s=1)


async def test_a_hundred_payloads_that_come_in_side_by_side_are_on_disk_and_not_in_memory(tmp_path: Path) -> None:
    payloads = [number.to_bytes(2, "big") * CHUNK_BYTES for number in range(100)]  # two chunks, 256 KiB
    whole = sum(map(len, payloads))
    all_are_here = asyncio.Barrier(len(payloads))
    async with (
        embedded_broker() as url,
        holder(url, tmp_path / "a", {RECEIVER.address}) as offering,
        party(url, RECEIVER, tmp_path / "b") as pulling,
    ):
        offered = [await offering.offer(payload) for payload in payloads]
        del payloads

        async def pull(transfer: Transfer) -> None:
            async with pulling.fetched(HOLDER.address, transfer, max_bytes=10**7, deadline_s=30) as path:
                await all_are_here.wait()
                assert path.stat().st_size == transfer.length

        with peak_memory() as peak:
            async with asyncio.TaskGroup() as pulls:
                for transfer in offered:
                    pulls.create_task(pull(transfer))
        assert peak[0] < whole / 4
        assert list((tmp_path / "b" / "in").iterdir()) == []


async def test_what_was_pulled_is_passed_on_without_taking_room_twice(tmp_path: Path) -> None:
    async with (
        embedded_broker() as url,
        holder(url, tmp_path / "a", {RECEIVER.address}) as offering,
        party(url, RECEIVER, tmp_path / "b", max_spool_bytes=len(PAYLOAD) + 1) as pulling,
    ):
        transfer = await offering.offer(PAYLOAD)
        async with pulling.fetched(HOLDER.address, transfer, max_bytes=10**7, deadline_s=20) as path:
            await pulling.pass_on(transfer, path)
        assert (tmp_path / "b" / "out" / transfer.digest).read_bytes() == PAYLOAD
        with pytest.raises(Refused, match=f"{len(PAYLOAD)} of the spool's"):
            await pulling.offer(b"xx")
        await pulling.offer(b"x")
        assert await pulling.offer(PAYLOAD) == transfer


async def test_offered_file_is_pulled_and_the_file_stays_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "sum"
    file.write_bytes(PAYLOAD)
    async with embedded_broker() as url, holder(url, tmp_path / "a", {RECEIVER.address}) as offering:
        await offering.offer_file(file, describe(PAYLOAD))
        await offering.offer_file(file, describe(PAYLOAD))
        file.write_bytes(b"another round's")
        async with party(url, RECEIVER, tmp_path / "b") as pulling:
            got = await pulling.fetch(HOLDER.address, describe(PAYLOAD), max_bytes=10**7, deadline_s=20)
    assert got == PAYLOAD
