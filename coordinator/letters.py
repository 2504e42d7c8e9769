"""Which agents' keys the custodians hold (one-time keys): an update whose key is missing would spoil the whole sum.

Custodians say so in receipts. A sum opens with the totals of enough custodians, the same for all its members: of
three, two. So the round chooses, once, those that hold the keys of most, and every other update is refused.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from itertools import combinations

import msgspec

from gemel.errors import Refused
from gemel.exchange.opened_sums import ENOUGH
from gemel.ports import Records
from gemel.sealing.onetime.letters import parts_of
from gemel.wire.envelope import Envelope
from gemel.wire.messages import Entry, LetterReceipt, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest

PATIENCE_S = 10.0  # letters go out before commitments: when the list is closed, they should be here
_KIND, _KEEPERS = "letter-receipt", "letter-keepers"

Receipts = Mapping[Address, LetterReceipt]  # by custodian


class Letters:
    """Custodians' receipts for letters, durable before they are acknowledged; the first of each kind stands."""

    def __init__(self, records: Records, custodians: tuple[Address, ...], agents: Container[Address]) -> None:
        self._records, self._custodians, self._agents = records, custodians, agents
        self._receipts: dict[tuple[int, Address], dict[Address, LetterReceipt]] = defaultdict(dict)
        self._came = asyncio.Condition()

    async def restore(self) -> None:
        """What had come before a crash."""
        for key, data in await self._records.items(_KIND):
            round_, device, custodian = key.split("/")
            self._receipts[int(round_), device][custodian] = decode(LetterReceipt, data)

    async def put(self, message: Envelope) -> None:
        """A custodian's receipt. Raises Refused for an agent that is not registered, Malformed for none."""
        receipt, round_, custodian = decode(LetterReceipt, message.body), message.header.round, message.header.sender
        if receipt.agent not in self._agents:
            raise Refused(Reason.UNREGISTERED, receipt.agent)
        if receipt.outcome == "refused":
            return  # the custodian has logged why, and the agent has heard it
        async with self._came:
            key = f"{round_:020d}/{receipt.agent}/{custodian}"
            if await self._records.put_once(_KIND, key, encode(receipt)):
                self._receipts[round_, receipt.agent][custodian] = receipt
                self._came.notify_all()

    async def kept(self, round_: int, entries: Iterable[Entry], patience_s: float) -> frozenset[Address]:
        """The devices among these whose keys the round's keepers hold; who those are is decided once.

        Waits until enough custodians hold the keys of all, or `patience_s` is over.
        """
        entries = tuple(entries)
        try:
            async with asyncio.timeout(patience_s), self._came:
                while len(self._kept_by(await self._keepers(round_, entries), round_, entries)) < len(entries):
                    await self._came.wait()
        except TimeoutError:
            pass  # whoever is missing now is refused
        chosen = msgspec.json.encode(await self._keepers(round_, entries))
        await self._records.put_once(_KEEPERS, str(round_), chosen)
        return self._kept_by(await self._keepers(round_, entries), round_, entries)

    async def clear_through(self, round_: int) -> None:
        """Forget everything of rounds up to `round_`."""
        for number, device in [key for key in self._receipts if key[0] <= round_]:
            for custodian in self._receipts.pop((number, device)):
                await self._records.drop(_KIND, f"{number:020d}/{device}/{custodian}")
        for key, _ in await self._records.items(_KEEPERS):
            if int(key) <= round_:
                await self._records.drop(_KEEPERS, key)

    async def _keepers(self, round_: int, entries: tuple[Entry, ...]) -> tuple[Address, ...]:
        """Those that were chosen, else those that hold most keys by now."""
        stored = await self._records.get(_KEEPERS, str(round_))
        if stored is not None:
            return msgspec.json.decode(stored, type=tuple[Address, ...])
        groups = combinations(self._custodians, ENOUGH[len(self._custodians)])
        return max(groups, key=lambda group: len(self._kept_by(group, round_, entries)))

    def _kept_by(self, keepers: tuple[Address, ...], round_: int, entries: tuple[Entry, ...]) -> frozenset[Address]:
        """The devices whose keys, for these very updates, all of `keepers` hold."""
        kept = []
        for entry in entries:
            receipts = self._receipts.get((round_, entry.device), {})
            fitting = {custodian: r for custodian, r in receipts.items() if r.update == entry.digest}
            if fitting.keys() >= set(keepers) and self._agree(fitting):
                kept.append(entry.device)
        return frozenset(kept)

    def _agree(self, receipts: Receipts) -> bool:
        """Whether no two custodians got different things for the same part; one alone has nothing to compare."""
        if len(self._custodians) == 1:
            return True
        parts: dict[int, Digest] = {}
        for custodian, receipt in receipts.items():
            held = parts_of(self._custodians.index(custodian), len(self._custodians))
            if len(receipt.parts) != len(held):
                return False
            for part, digest in zip(held, receipt.parts, strict=True):
                if parts.setdefault(part, digest) != digest:
                    return False
        return True
