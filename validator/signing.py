"""What this validator signs, stored before anybody hears of it: one statement for each kind and round, no second one.

Two sums or two votes of one round that differ cost the stake, whoever brings them to the chain (Election.sol). A
crash must not lead there: what was measured before it is said again after it, with the same signature.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gemel.errors import Refused
from gemel.ports import Records
from gemel.wire.attestations import Confirmation, ModelAttestation, SumAttestation, Vote
from gemel.wire.eip712 import Domain
from gemel.wire.identity import Identity
from gemel.wire.messages import DeviceResult, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.trust_report import report_hash
from gemel.wire.types import Signature

_SUM, _VOTE, _REPORT = "signed-sum", "signed-vote", "signed-report"


class Report(msgspec.Struct, frozen=True):
    """A part of a round's results: what Trust.sol takes at once."""

    task: str
    round: int
    part: int  # from 0 on
    results: tuple[DeviceResult, ...]


class _Signed(msgspec.Struct, frozen=True):
    statement: bytes
    signature: Signature


class SignedOnce:
    """Durable. `rounds` and `trust` are the domains of the two contracts that statements are signed for.

    Each method gives the same signature however often it is asked for one statement, and raises
    Refused(contradiction) where another of the same kind and round was signed before; StoreUnavailable.
    """

    def __init__(self, records: Records, identity: Identity, *, rounds: Domain, trust: Domain) -> None:
        self._records, self._identity, self._rounds, self._trust = records, identity, rounds, trust

    async def sum(self, statement: SumAttestation) -> Confirmation:
        """Our word that the sum is right."""
        key = self._key(statement.task, statement.round)
        signature = await self._sign(_SUM, key, statement, statement.hash(self._rounds))
        return Confirmation(self._identity.address, signature)

    async def vote(self, statement: ModelAttestation) -> Vote:
        """What we measured."""
        key = self._key(statement.task, statement.round)
        signature = await self._sign(_VOTE, key, statement, statement.hash(self._rounds))
        measured = (statement.accuracy, statement.baseline, statement.approved)
        return Vote(self._identity.address, *measured, signature)

    async def report(self, statement: Report) -> Confirmation:
        """What became of devices."""
        key = f"{self._key(statement.task, statement.round)}/{statement.part}"
        hash_ = report_hash(statement.results, statement.task, statement.round, self._trust)
        return Confirmation(self._identity.address, await self._sign(_REPORT, key, statement, hash_))

    async def stored_sum(self, task: str, round_: int) -> SumAttestation | None:
        """What was signed of a round's sum, if anything was."""
        raw = await self._records.get(_SUM, self._key(task, round_))
        return None if raw is None else decode(SumAttestation, decode(_Signed, raw).statement)

    async def stored_vote(self, task: str, round_: int) -> ModelAttestation | None:
        """What was signed of a round's candidate, if anything was."""
        raw = await self._records.get(_VOTE, self._key(task, round_))
        return None if raw is None else decode(ModelAttestation, decode(_Signed, raw).statement)

    async def stored_reports(self, task: str, round_: int) -> Sequence[Report]:
        """What was signed of a round's devices, and is not forgotten yet."""
        begins = f"{self._key(task, round_)}/"
        stored = [raw for key, raw in await self._records.items(_REPORT) if key.startswith(begins)]
        return sorted((decode(Report, decode(_Signed, raw).statement) for raw in stored), key=lambda each: each.part)

    async def forget_reports(self, task: str, through: int) -> None:
        """Drop reports of rounds up to `through`: they are long, and no stake hangs on them. Sums and votes stay."""
        for key, raw in await self._records.items(_REPORT):
            report = decode(Report, decode(_Signed, raw).statement)
            if report.task == task and report.round <= through:
                await self._records.drop(_REPORT, key)

    def _key(self, task: str, round_: int) -> str:
        """A fleet that is founded anew counts its rounds anew, under another domain."""
        return f"{self._rounds.separator.hex()}/{task}/{round_:020d}"

    async def _sign(self, kind: str, key: str, statement: msgspec.Struct, hash32: bytes) -> Signature:
        said = encode(statement)
        signed = _Signed(said, self._identity.sign(hash32).hex())
        if await self._records.put_once(kind, key, encode(signed)):
            return signed.signature
        raw = await self._records.get(kind, key)
        assert raw is not None  # put_once found it, and nobody drops what is being asked for
        stored = decode(_Signed, raw)
        if stored.statement != said:
            raise Refused(Reason.CONTRADICTION, f"another {kind.removeprefix('signed-')} of this round is signed")
        return stored.signature
