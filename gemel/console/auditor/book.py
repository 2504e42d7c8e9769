"""What an audit writes down while it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from gemel.errors import ConfigError, PeerError
from gemel.wire.types import Address


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit; in the list of what was not kept, something that is not there to be checked."""

    where: str  # file, relative to the audited directory
    what: str
    round: int | None = None
    device: Address | None = None


class DoesNotFit(Exception):
    """Raised inside `Book.checking`: what does not fit, in words."""


def require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition, as in assert
    """Raises DoesNotFit(otherwise) unless the condition holds."""
    if not holds:
        raise DoesNotFit(otherwise)


@dataclass(slots=True)
class Book:
    """Findings in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)
    not_kept: list[Finding] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)  # by kind: how many things were checked and fit

    def fault(self, where: str, what: str, round_: int | None = None, device: Address | None = None) -> None:
        """Something does not fit."""
        self.findings.append(Finding(where, what, round_, device))

    def absent(self, where: str, what: str, round_: int | None = None, device: Address | None = None) -> None:
        """Something cannot be checked because it was not kept."""
        self.not_kept.append(Finding(where, what, round_, device))

    def add(self, other: Book) -> None:
        """Everything that stands in another book, after what is here."""
        self.findings += other.findings
        self.not_kept += other.not_kept
        self.held += other.held

    @contextmanager
    def checking(
        self, kind: str, where: str, round_: int | None = None, device: Address | None = None
    ) -> Iterator[None]:
        """One check: counted under `kind` if its body ends, a finding if it raises DoesNotFit or a typed refusal."""
        try:
            yield
        except (DoesNotFit, PeerError, ConfigError) as error:
            self.fault(where, str(error), round_, device)
        else:
            self.held[kind] += 1
