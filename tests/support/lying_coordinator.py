"""python -m tests.support.lying_coordinator --config FILE: the real coordinator, which lies in certain rounds.

Everything that it does not lie about is coordinator/'s own code, its keys are the real ones, and what it needs for a
lie it has prepared well: lists, roots, transfers and signatures fit, as far as it can make them fit.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

import coordinator.__main__ as honest
from coordinator import collecting, machine
from coordinator.ballots import Ballots
from coordinator.driver import Driver, Performer
from coordinator.machine import Event, Round
from coordinator.office import Office
from coordinator.service import performers
from coordinator.settings import CoordinatorSettings
from gemel.exchange import admission
from gemel.exchange.frame_intake import add_up
from gemel.host.service import run_configured
from gemel.ports import Blobs, Chain, Sent
from gemel.wire import tensors
from gemel.wire.envelope import Envelope
from gemel.wire.trust import Trust
from gemel.wire.types import Address, sha256

# The rounds in which it lies, and what about.
CLAIMS = 1  # the candidate is right all the time, it says
SWAPS = 2  # the digest on chain is that of another sum
LEAVES_OUT = 3  # one of the updates that it lists is not in the sum
WEIGHS = 4  # one update counts for more than its device has said
INVENTS = 5  # the candidate is not what follows from the sum
WITHHOLDS = 6  # what one validator has to say it hands in nowhere
ROUNDS = WITHHOLDS

PERFECT = 1_000_000
ANOTHER_SUM = sha256(b"a sum that nobody added up")


def victim(trust: Trust) -> Address:
    """The validator whose ballots it withholds."""
    return min(trust.validator_addresses)


class LyingChain:
    """The chain, but for what the coordinator says there. All else is the client's."""

    def __init__(self, chain: Chain, blobs: Blobs) -> None:
        self._chain, self._blobs = chain, blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def propose_sum(self, task: str, round_: int, **sums: Any) -> Sent:
        """See `Chain`."""
        if round_ == SWAPS:
            sums["sum_digest"] = ANOTHER_SUM
        return await self._chain.propose_sum(task, round_, **sums)

    async def propose_candidate(self, task: str, round_: int, **candidate: Any) -> Sent:
        """See `Chain`."""
        if round_ in (CLAIMS, INVENTS):
            candidate["accuracy"] = PERFECT
        if round_ == INVENTS:
            model = tensors.from_bytes(await self._blobs.get(candidate["model"]))
            backdoored = {name: values + values.dtype.type(0.5) for name, values in model.items()}
            candidate["model"] = await self._blobs.put(tensors.to_bytes(backdoored))
        return await self._chain.propose_candidate(task, round_, **candidate)


async def add_frames(office: Office, round_: Round) -> Event:
    """See coordinator.collecting."""
    added = await collecting.add_frames(office, round_)
    assert isinstance(added, machine.SumAdded)
    if round_.number == LEAVES_OUT:
        folder, context = office.folder(round_), await office.folder(round_).read("context")
        frames = [(folder.frames / entry.device, entry.level) for entry in added.included[1:]]
        size = office.task.manifest.size
        total = await office.workers.run(add_up, context, office.policy.sealing, size, frames, folder.sum)
        await office.transfers.offer_file(folder.sum, total)
        return replace(added, sum=total)
    if round_.number == WEIGHS:
        favourite, *others = added.included
        included = (replace(favourite, weight=office.policy.sealing.weight_cap), *others)
        return replace(added, included=included, updates_root=admission.root_of(included))
    return added


class Withholding(Ballots):
    """Loses what it would rather not have heard."""

    async def put(self, message: Envelope) -> None:
        """See Ballots."""
        withheld = message.header.round == WITHHOLDS and message.header.sender == victim(self._post.trust)
        if not withheld:
            await super().put(message)


def lying(office: Office, driver: Driver) -> dict[type[machine.Effect], Performer]:
    """What each effect is done by."""
    chain: Any = LyingChain(office.chain, office.blobs)
    liar = dataclasses.replace(office, chain=chain)
    return performers(liar, driver) | {machine.AddFrames: partial(add_frames, liar)}


if __name__ == "__main__":
    with patch.multiple(honest, performers=lying, Ballots=Withholding):
        run_configured("coordinator", honest.main, CoordinatorSettings)
