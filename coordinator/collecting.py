"""Collecting frames and adding them: each enters the sum whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

from coordinator import machine
from coordinator.driver import Driver
from coordinator.letters import PATIENCE_S
from coordinator.machine import Event, Round
from coordinator.office import Office
from gemel.errors import IllegalEvent, PeerError, Refused
from gemel.exchange import admission
from gemel.exchange.device_results import scores_at
from gemel.exchange.frame_intake import Intake, add_up, take_in
from gemel.exchange.post import reason_of
from gemel.ports import RoundState
from gemel.wire import merkle
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Aggregate, Entry, Receipt
from gemel.wire.reasons import Reason
from gemel.wire.types import Address

GRACE_S = 1.0  # a fetch begun after the deadline (after a crash) gets at least so long


async def collect_frames(office: Office, driver: Driver, round_: Round) -> None:
    """Pull all listed frames side by side; each gets its receipt."""
    answered = round_.taken | round_.refused.keys()
    async with asyncio.TaskGroup() as tasks:
        kept = tasks.create_task(_whose_keys_are_kept(office, round_), name="letters")
        for device, entry in round_.entries.items():
            if device not in answered:
                tasks.create_task(_collect(office, driver, round_, entry, kept), name=f"collect {device}")


async def _whose_keys_are_kept(office: Office, round_: Round) -> frozenset[Address]:
    if office.policy.sealing.scheme != "one-time-keys":
        return frozenset(round_.entries)
    left_s = (round_.reveal_until_ms - office.post.clock.now_ms()) / 1000
    patience_s = min(PATIENCE_S, max(GRACE_S, left_s / 2))
    return await office.letters.kept(round_.number, round_.entries.values(), patience_s)


async def on_letter_receipt(office: Office, driver: Driver, message: Envelope) -> None:
    """A custodian holds an agent's key. Raises PeerError for what is of another round, or no receipt."""
    if driver.round is None or message.header.round != driver.round.number:
        raise Refused(Reason.STALE_ROUND, f"round {message.header.round} is not the one that is open")
    await office.letters.put(message)


async def _collect(
    office: Office, driver: Driver, round_: Round, entry: Entry, kept: asyncio.Task[frozenset[Address]]
) -> None:
    assert round_.context is not None
    folder, terms = office.folder(round_), office.terms(round_)
    intake = Intake(terms, office.task.manifest.size, round_.context.digest, office.box_secret)
    left_s = max(GRACE_S, (round_.reveal_until_ms - office.post.clock.now_ms()) / 1000)
    event: Event
    try:
        async with office.transfers.fetched(
            entry.device, entry.transfer, max_bytes=entry.transfer.length, deadline_s=left_s
        ) as wrapped:
            await office.workers.run(take_in, wrapped, folder.frames / entry.device, entry, intake)
            if entry.device not in await kept:
                await folder.drop_frame(entry.device)
                raise Refused(Reason.NO_LETTER, "the sum would not open: too few custodians hold its key")
            # for validators, should the agent be gone when they want it
            await office.transfers.pass_on(entry.transfer, wrapped)
        error, event = None, machine.FrameTaken(entry.device)
    except PeerError as refusal:
        error, event = refusal, machine.FrameRefused(entry.device, reason_of(refusal))
    await office.receipt(round_.number, entry.device, error, entry.transfer)
    with contextlib.suppress(IllegalEvent):  # the deadline has struck, and the round gone on without this one
        await driver.feed(event)


async def add_frames(office: Office, round_: Round) -> Event:
    """Weigh the updates, and add the ciphertexts in a worker; whoever is left out is told why."""
    devices, opened_block = sorted(round_.taken), (await office.on_chain(round_)).opened_block
    scores = await scores_at(office.scores, office.policy, devices, opened_block)
    included = admission.weighed(round_.included, office.policy, scores)
    await _say_who_is_left_out(office, round_, included)
    owners = round_.distinct_owners(frozenset(entry.device for entry in included))
    if owners < round_.minimum_owners:
        raise Refused(Reason.TOO_FEW_OWNERS, f"updates of {owners} owners count, {round_.minimum_owners} needed")
    folder = office.folder(round_)
    frames = [(folder.frames / entry.device, entry.level) for entry in included]
    context = await folder.read("context")
    total = await office.workers.run(
        add_up, context, office.policy.sealing, office.task.manifest.size, frames, folder.sum
    )
    await office.transfers.offer_file(folder.sum, total)
    return machine.SumAdded(included, admission.root_of(included), total)


async def _say_who_is_left_out(office: Office, round_: Round, included: tuple[Entry, ...]) -> None:
    counted = {entry.device for entry in included}
    for entry in round_.included:
        if entry.device not in counted:
            none = Refused(Reason.NO_WEIGHT, "trust, or the policy's share, leaves it none in this sum")
            await office.receipt(round_.number, entry.device, none, entry.transfer)


async def anchor_sum(office: Office, round_: Round) -> Event:
    """Root of the updates and digest of the sum go on chain."""
    assert round_.sum is not None
    if (await office.on_chain(round_)).state < RoundState.AGGREGATED:
        await office.chain.propose_sum(
            office.name,
            round_.number,
            updates_root=round_.updates_root,
            sum_digest=round_.sum.digest,
            owners=round_.distinct_owners(round_.taken),
            weight=admission.weight_of(round_.included),
        )
    return machine.SumAnchored()


async def publish_aggregate(office: Office, round_: Round) -> None:
    """Tell validators and custodian which frames are in which sum, and each agent how to see that its own is."""
    assert round_.sum is not None
    weight = admission.weight_of(round_.included)
    aggregate = Aggregate(round_.included, round_.updates_root, round_.sum, weight)
    await office.announce(round_, office.post.topics.aggregate, Kind.AGGREGATE, aggregate, "aggregate")
    paths = merkle.proofs([admission.leaf_of(entry) for entry in round_.included])
    for entry in round_.included:
        proof = tuple(sibling.hex() for sibling in paths[admission.leaf_of(entry)])
        included = Receipt("included", transfer=entry.transfer.digest, level=entry.level, proof=proof)
        await office.say_receipt(round_.number, entry.device, included)
