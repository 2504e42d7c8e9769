"""The twin registry's log of reads, as its API tells the roots over it.

The registry holds no key of the chain, and needs none: a root that it hands out and that then stands on chain is what
it can be held to. Of several roots one is made (gemel/wire/logs.py), so an interval costs one transaction.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from itertools import pairwise

import aiohttp
import msgspec

from chain_listener.anchoring import Range
from gemel.errors import Malformed, Unavailable
from gemel.ports import AccessRoot
from gemel.wire.logs import ACCESS_LOG, root_of_roots
from gemel.wire.types import Count

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_MOST_ROOTS = 1000
_MOST_BYTES = 1 << 20


class RegistryUnavailable(Unavailable):
    """The registry's API does not answer, or not with what was asked."""


class _Roots(msgspec.Struct, frozen=True):
    roots: tuple[AccessRoot, ...]


@dataclass(frozen=True, slots=True)
class RegistryLog:
    """AnchoredLog over the registry's API."""

    url: str
    token: str = ""
    tls: ssl.SSLContext | None = None
    name: str = ACCESS_LOG

    def waiting(self, after: Count) -> int:  # noqa: ARG002  it is not asked between intervals
        """See `AnchoredLog`."""
        return 0

    async def next_range(self, after: Count) -> Range | None:
        """See `AnchoredLog`. Raises RegistryUnavailable, Malformed for roots that do not go on where the chain is."""
        roots = await self._roots(after)
        if not roots:
            return None
        gap = any(later.first != earlier.last + 1 for earlier, later in pairwise(roots))
        if gap or roots[0].first != after + 1 or any(root.last < root.first for root in roots):
            said = f"roots that do not go on after entry {after}, the last that is anchored: it is another log"
            raise Malformed("the registry's log of reads", said)
        return Range(roots[0].first, roots[-1].last, root_of_roots([root.root for root in roots]))

    async def _roots(self, after: Count) -> tuple[AccessRoot, ...]:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        query = {"after": str(after), "limit": str(_MOST_ROOTS)}
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session,
                session.get(
                    f"{self.url}/accesses/roots",
                    params=query,
                    ssl=self.tls or True,
                    allow_redirects=False,
                ) as answer,
            ):
                status, body = answer.status, b""
                async for piece in answer.content.iter_chunked(_MOST_BYTES):
                    body += piece
                    if len(body) > _MOST_BYTES:
                        break
        except (aiohttp.ClientError, OSError) as error:
            raise RegistryUnavailable(f"the registry at {self.url}: {error!r}") from error
        if status != 200:
            raise RegistryUnavailable(f"the registry at {self.url} answers {status}")
        try:
            return msgspec.json.decode(body, type=_Roots).roots
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryUnavailable(f"the registry at {self.url} answers with nonsense: {error}") from error
