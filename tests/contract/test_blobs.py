"""ports.Blobs on files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gemel.adapters.file_blobs import FileBlobs
from gemel.errors import Refused, StoreUnavailable
from gemel.ports import Blobs
from gemel.wire.types import sha256


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 4096])
async def test_what_was_put_is_got_by_its_digest(blobs: Blobs, data: bytes) -> None:
    digest = await blobs.put(data)
    assert digest == sha256(data)
    assert await blobs.has(digest)
    assert await blobs.get(digest) == data


async def test_putting_again_changes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    digest = await blobs.put(b"twice")
    await asyncio.gather(*(blobs.put(b"twice") for _ in range(8)))
    assert await blobs.get(digest) == b"twice"
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [digest]


async def test_unknown_digest_is_a_key_error(blobs: Blobs) -> None:
    assert not await blobs.has(sha256(b"never"))
    with pytest.raises(KeyError):
        await blobs.get(sha256(b"never"))


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "/x"])
async def test_text_that_is_no_digest_never_becomes_a_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(KeyError):
        await blobs.get(name)
    with pytest.raises(KeyError):
        await blobs.drop(name)


async def test_dropped_blob_is_gone_and_dropping_again_is_fine(blobs: Blobs) -> None:
    digest = await blobs.put(b"gone")
    await blobs.drop(digest)
    await blobs.drop(digest)
    assert not await blobs.has(digest)


async def test_rotten_file_is_refused_and_mended_by_the_next_put(blobs: Blobs, tmp_path: Path) -> None:
    digest = await blobs.put(b"sound")
    path = tmp_path / "blobs" / digest[:2] / digest
    path.write_bytes(b"sounD")
    with pytest.raises(Refused, match="digest_mismatch"):
        await blobs.get(digest)
    await blobs.put(b"sound")
    assert await blobs.get(digest) == b"sound"


async def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        await FileBlobs(tmp_path / "file").put(b"x")
