"""Puts the roots of logs on chain, range after range: how far the chain is, only the chain says.

Nothing is kept here. After a crash, a transaction that came through after all, or a reorganisation, the next range
begins above the last entry that is anchored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from gemel.errors import ChainReverted, GemelError, Malformed
from gemel.exchange.deployment_log import DeploymentLog
from gemel.ports import Anchors, Clock
from gemel.wire.logs import DEPLOYMENT_LOG, number_of, root_of
from gemel.wire.types import Count, Digest

LOOK_S = 1.0
MOST_ENTRIES = 10_000  # under one root

log = structlog.get_logger(__name__)


class Range(NamedTuple):
    """Entries that follow each other, and the root over them."""

    first: Count
    last: Count
    root: Digest


class AnchoredLog(Protocol):
    """A log that somebody keeps."""

    @property
    def name(self) -> str:
        """As on chain."""
        ...

    def waiting(self, after: Count) -> int:
        """How many entries above `after` are known here; 0 where only asking would tell."""
        ...

    async def next_range(self, after: Count) -> Range | None:
        """What follows entry `after`; None where nothing does. Raises GemelError where the log cannot tell."""
        ...


@dataclass(frozen=True, slots=True)
class OwnLog:
    """The listener's own."""

    entries: DeploymentLog
    name: str = DEPLOYMENT_LOG

    def waiting(self, after: Count) -> int:
        """See `AnchoredLog`."""
        return max(0, self.entries.last - after)

    async def next_range(self, after: Count) -> Range | None:
        """See `AnchoredLog`."""
        entries = self.entries.after(after, MOST_ENTRIES)
        if not entries:
            return None
        last = after + len(entries)
        if [number_of(entry) for entry in entries] != list(range(after + 1, last + 1)):
            raise Malformed("our log of deployments", f"it does not go on after entry {after}, which the chain has")
        return Range(after + 1, last, root_of(entries))


@dataclass(slots=True)
class Anchoring:
    """Anchors one log every `interval_s`, and sooner where `most_waiting` entries wait."""

    of: AnchoredLog
    anchors: Anchors
    clock: Clock
    interval_s: float
    most_waiting: int
    anchored: Callable[[str, int], None]  # hears of the log's last anchored entry, for a metric
    _known: Count = 0  # the last entry that is anchored, when we looked last
    _said: str = ""

    async def run(self) -> None:
        """For ever. Whatever keeps it from anchoring is said once, and tried again."""
        due_s = self.clock.monotonic_s()
        while True:
            now_s = self.clock.monotonic_s()
            if now_s >= due_s or self.of.waiting(self._known) >= self.most_waiting:
                due_s = now_s + self.interval_s
                try:
                    await self.catch_up()
                except GemelError as error:
                    self._complain(str(error))
            await self.clock.sleep(min(LOOK_S, self.interval_s))

    async def catch_up(self) -> None:
        """Anchor everything that the log has. Raises ChainReverted, ChainUnavailable, and as the log."""
        name = self.of.name
        while True:
            self._known = await self.anchors.anchored_entries(name)
            self.anchored(name, self._known)
            following = await self.of.next_range(self._known)
            if following is None:
                self._said = ""
                return
            first, last, root = following
            try:
                sent = await self.anchors.anchor(name, first=first, last=last, root=root)
            except ChainReverted as error:
                if error.error != "NotNext":
                    raise
                log.info("a transaction before this one came through after all", log=name, first=first)
                return  # a look from now on the chain says how far it is
            log.info("anchored", log=name, first=first, last=last, root=root, transaction=sent.transaction)

    def _complain(self, why: str) -> None:
        if why != self._said:
            log.warning("not anchored", log=self.of.name, why=why)
        self._said = why
