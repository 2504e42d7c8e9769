"""The chain as the witness of one-time keys: of a confirmed round it holds one root of updates, and never another."""

from __future__ import annotations

from collections.abc import Iterable

from gemel.errors import Refused
from gemel.exchange import admission
from gemel.ports import RoundRecord, RoundState
from gemel.sealing.onetime.letters import members_digest
from gemel.sealing.ports import Member
from gemel.wire.messages import Entry
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_DIGEST, Digest


class ChainWitness:
    """Implements gemel.sealing.ports.Witness.

    It keeps nothing that could be set back: what it answers was read from the chain since this process started, and
    the contract takes one root a round, before validators confirm it. All custodians of the chain get the same.
    """

    def __init__(self) -> None:
        self._confirmed: dict[Digest, Digest] = {}

    def confirm(self, context: Digest, record: RoundRecord, entries: Iterable[Entry]) -> None:
        """The chain confirms the list of these entries for the round of `context`; raises Refused if it does not."""
        entries = tuple(entries)
        if record.state != RoundState.CONFIRMED:
            raise Refused(Reason.STALE_ROUND, f"the round is {record.state.name.lower()}, not confirmed")
        if admission.root_of(entries) != record.updates_root:
            raise Refused(Reason.DIGEST_MISMATCH, "the updates are not those that the chain confirmed")
        self._confirmed[context] = members_digest([Member(entry.device, entry.digest) for entry in entries])

    def first(self, context: Digest, members: Digest) -> Digest:  # noqa: ARG002  the chain has had its list before
        """See Witness: the list that the chain confirmed for `context`, or no list's digest."""
        return self._confirmed.get(context, NO_DIGEST)
