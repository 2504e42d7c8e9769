"""What validators signed, as the chain tells it: kept until the deployment message that carries it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gemel.ports import ChainEvent, Records
from gemel.wire.attestations import Confirmation, Vote


@dataclass(slots=True)
class Signatures:
    """Votes and confirmations by round, durable. An event may come again; a retracted one is taken back."""

    records: Records

    async def on_event(self, event: ChainEvent) -> None:
        """A validator's signature reached the chain."""
        v = event.values
        if event.name == "SumAttested":
            word = Confirmation(str(v["validator"]), str(v["signature"]))
            await self._keep(event, f"confirmation/{v['round']}", word)
        elif event.name == "VoteRevealed":
            vote = Vote(
                str(v["validator"]),
                int(str(v["accuracy"])),
                int(str(v["baseline"])),
                bool(v["approved"]),
                str(v["signature"]),
            )
            await self._keep(event, f"vote/{v['round']}", vote)

    async def _keep(self, event: ChainEvent, kind: str, word: Confirmation | Vote) -> None:
        if event.retracted:
            await self.records.drop(kind, word.validator)
        else:
            await self.records.put(kind, word.validator, msgspec.json.encode(word))

    async def confirmations(self, round_: int) -> tuple[Confirmation, ...]:
        """Who confirmed the round's sum."""
        kept = await self.records.items(f"confirmation/{round_}")
        return tuple(msgspec.json.decode(raw, type=Confirmation) for _, raw in kept)

    async def approvals(self, round_: int) -> tuple[Vote, ...]:
        """The votes for the round's candidate."""
        votes = [msgspec.json.decode(raw, type=Vote) for _, raw in await self.records.items(f"vote/{round_}")]
        return tuple(vote for vote in votes if vote.approved)

    async def drop(self, round_: int) -> None:
        """The message that carries them is kept itself."""
        for kind in (f"vote/{round_}", f"confirmation/{round_}"):
            for key, _ in await self.records.items(kind):
                await self.records.drop(kind, key)
