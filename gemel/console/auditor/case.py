"""One round under audit: what is kept of it, what the chain says of it, and where findings about it go."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from gemel.console.auditor.book import Book
from gemel.console.auditor.evidence import Evidence
from gemel.console.auditor.ledger import Ledger, RoundLine
from gemel.exchange.admission import Terms
from gemel.ports import RoundRecord
from gemel.wire.messages import Policy
from gemel.wire.trust import Trust
from gemel.wire.types import NO_DIGEST, Address

# For each part the digests on chain without which it cannot be there yet, and with which it must have been published.
_ON_CHAIN = {
    "invitation": ("roster_root", "roster_root"),
    "context": ("updates_root", None),
    "roster": ("roster_root", "updates_root"),
    "frames": ("updates_root", None),
    "sum": ("sum_digest", None),
    "aggregate": ("updates_root", "opened"),
    "opened": ("opened", None),
    "opening": ("opened", "model"),
    "explanation.json": ("explanation", "explanation"),
}


@dataclass(frozen=True, slots=True)
class RoundCase:
    """Everything that the checks of one round share."""

    evidence: Evidence
    ledger: Ledger
    number: int
    line: RoundLine
    book: Book

    @property
    def record(self) -> RoundRecord:
        """The round as the chain has it."""
        return self.line.record

    @property
    def trust(self) -> Trust:
        """The pinned parties."""
        return self.evidence.trust

    @property
    def policy(self) -> Policy:
        """The fleet's policy."""
        return self.evidence.policy

    @property
    def terms(self) -> Terms:
        """What updates of this round had to fit."""
        return Terms(self.trust, self.number, self.record.base, self.policy)

    def where(self, part: str) -> str:
        """A part of the round as findings name it."""
        return self.evidence.name(self.evidence.part_path(self.number, part))

    def part(self, part: str) -> bytes | None:
        """A part of the round, or None if it is not kept."""
        return self.evidence.part(self.number, part)

    def checking(self, kind: str, part: str, device: Address | None = None) -> AbstractContextManager[None]:
        """One check of a part; see Book.checking."""
        return self.book.checking(kind, self.where(part), self.number, device)

    def missing(self, part: str, consequence: str) -> None:
        """A part is not there: a finding if the chain shows that it was published, else noted if it may have been."""
        begun, published = _ON_CHAIN[part]
        if published is not None and self._on_chain(published):
            self.book.fault(self.where(part), "is missing, though the chain shows that it was published", self.number)
        elif self._on_chain(begun):
            self.book.absent(self.where(part), f"not kept: {consequence}", self.number)

    def _on_chain(self, digest: str) -> bool:
        return bool(getattr(self.record, digest) != NO_DIGEST)
