"""The plant's history, as its twin registry tells it over HTTP (GET /twins/…, GET /twins/…/series/…)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec

from gemel.errors import ConfigError, Malformed, Unavailable
from gemel.ports import Sample
from gemel.twin.state import Quality, Twin
from gemel.wire.types import Millis
from validator.what_if import Reading

SLICE_MS: Final = 900_000  # asked for at a time: one page for each property at a reading a second
PAGE: Final = 1000
REQUEST_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 4_000_000  # a twin may have a megabyte
_USABLE: Final = (Quality.GOOD, Quality.UNCERTAIN)

_A = TypeVar("_A", bound=msgspec.Struct)


class _Shown(msgspec.Struct, frozen=True):
    twin: Twin


class _Series(msgspec.Struct, frozen=True):
    samples: tuple[Sample, ...]
    next: Millis | None


class _Problem(msgspec.Struct, frozen=True):
    detail: str


class PlantHistory:
    """One registry. `async with PlantHistory(url, token) as history`; a token is what its tokens file grants.

    Every question raises Unavailable where the registry is away, ConfigError where it refuses the token, and
    Malformed for an answer that is none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=REQUEST_S))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def twin(self, site: str, asset: str, at_ms: Millis | None = None) -> Twin | None:
        """The twin now, or as the registry had it at that time of its clock; None where it knew of none."""
        question = {} if at_ms is None else {"at": at_ms}
        shown = await self._ask(f"/twins/{site}/{asset}", question, _Shown)
        return None if shown is None else shown.twin

    async def readings(
        self, site: str, asset: str, names: Sequence[str], *, from_ms: Millis, to_ms: Millis
    ) -> AsyncIterator[Reading]:
        """The usable readings of these properties with source times in [from_ms, to_ms), instant by instant."""
        for start_ms in range(from_ms, to_ms, SLICE_MS):
            end_ms = min(start_ms + SLICE_MS, to_ms)
            found = await asyncio.gather(*(self._samples(site, asset, name, start_ms, end_ms) for name in names))
            for reading in _by_instant(dict(zip(names, found, strict=True))):
                yield reading

    async def _samples(self, site: str, asset: str, name: str, from_ms: Millis, to_ms: Millis) -> list[Sample]:
        samples, begin_ms = list[Sample](), from_ms
        while True:
            question = {"from": begin_ms, "to": to_ms, "limit": PAGE}
            page = await self._ask(f"/twins/{site}/{asset}/series/{name}", question, _Series)
            if page is None:
                return samples
            samples += page.samples
            if page.next is None:
                return samples
            if page.next <= begin_ms:
                raise Malformed("answer of the registry", f"the page after {begin_ms} begins at {page.next}")
            begin_ms = page.next

    async def _ask(self, path: str, question: Mapping[str, int], answer: type[_A]) -> _A | None:
        """None for 404."""
        try:
            async with self._session.get(self._url + path, params=question) as response:
                status, body = response.status, await _whole(response)
        except aiohttp.InvalidURL as error:
            raise ConfigError("registry", "url", f"http://host:port, not {self._url!r}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the registry at {self._url} is away ({error or 'no answer in time'})") from error
        if status == 404:
            return None
        if status in (401, 403):
            raise ConfigError("registry", "token_file", f"a token that the registry takes; it says: {_detail(body)}")
        if status >= 500:
            raise Unavailable(f"the registry at {self._url} cannot answer ({status}: {_detail(body)})")
        if status != 200:
            raise Malformed("answer of the registry", f"{status} for {path}: {_detail(body)}")
        try:
            return msgspec.json.decode(body, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Malformed("answer of the registry", f"{path}: {error}") from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise Malformed("answer of the registry", f"more than {MAX_ANSWER_BYTES} bytes")
    return body


def _by_instant(found: Mapping[str, Sequence[Sample]]) -> list[Reading]:
    values: dict[Millis, dict[str, float]] = defaultdict(dict)
    uncertain: dict[Millis, set[str]] = defaultdict(set)
    for name, samples in found.items():
        for sample in samples:
            if sample.value is not None and sample.quality in _USABLE:
                values[sample.time_ms][name] = sample.value
                if sample.quality is Quality.UNCERTAIN:
                    uncertain[sample.time_ms].add(name)
    return [Reading(at_ms, values[at_ms], frozenset(uncertain[at_ms])) for at_ms in sorted(values)]


def _detail(body: bytes) -> str:
    """What a problem document says, in one line; a proxy in between may say it in another form."""
    try:
        return msgspec.json.decode(body, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:80].decode(errors="replace").replace("\n", " ")
