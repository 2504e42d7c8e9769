"""What canaries said of a model that was given up: the evidence behind a rollback's `report` on chain. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping

from gemel.errors import Refused
from gemel.wire import envelope
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Expected, Kind
from gemel.wire.messages import Body, Installed, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Count, Digest, sha256

REPORT_BYTES = 1 << 16  # of one canary's word


class CanaryReport(Body, frozen=True):
    """Who was to try a deployment, and their last word in their own signature. Its digest is on chain."""

    task: str
    round: Count
    deployment: Count
    model: Digest
    canaries: tuple[Address, ...]
    reports: tuple[bytes, ...]  # packed envelopes of Installed, by sender; a canary that was away has none
    why: str  # in the listener's words

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON."""
        return sha256(encode(self))


def check_canary_report(report: CanaryReport, domain: Domain) -> Mapping[Address, Installed]:
    """What each canary said. Raises PeerError unless every word is a canary's own, and about this deployment."""
    said: dict[Address, Installed] = {}
    canaries: Container[Address] = frozenset(report.canaries)
    expected = Expected(domain, report.task, Kind.INSTALLED, canaries, REPORT_BYTES, round=report.round)
    for packed in report.reports:
        message = envelope.open_envelope(packed, expected)
        word = decode(Installed, message.body)
        if (word.deployment, word.model) != (report.deployment, report.model):
            raise Refused(Reason.DIGEST_MISMATCH, f"{message.header.sender} speaks of deployment {word.deployment}")
        said[message.header.sender] = word
    return said
