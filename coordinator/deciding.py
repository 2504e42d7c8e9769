"""From the confirmed sum to the verdict, the deployment, and the end of the round."""

from __future__ import annotations

import asyncio

import structlog

from coordinator import machine
from coordinator.machine import Event, Round
from coordinator.office import Office
from gemel.errors import ChainReverted, Malformed, Refused
from gemel.exchange import admission
from gemel.exchange.chain_watch import RoundEnded
from gemel.exchange.electorates import electorate_of
from gemel.exchange.opened_sums import SealedSum
from gemel.learning.measuring import Report, examine
from gemel.ports import RoundState
from gemel.sealing.candidate import candidate_model
from gemel.wire import boxes, envelope
from gemel.wire.envelope import Kind
from gemel.wire.messages import Candidate, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest, ppm, sha256

SAY_AGAIN_S = 10.0  # between two words on where M0 is

log = structlog.get_logger(__name__)


async def await_confirmation(office: Office, round_: Round) -> Event:
    """A quorum of validators recomputed the sum."""
    await office.watch.reached(round_.number, RoundState.CONFIRMED)
    return machine.SumConfirmed()


async def await_opening(office: Office, round_: Round) -> Event:
    """The opened sum, a custodian's or of our own opening, must be the one whose digest a custodian put on chain."""
    folder, sums = office.folder(round_), office.opened_sums
    own = None
    if office.policy.sealing.scheme == "one-time-keys":  # before the chain knows: a sum that does not open ends here
        context, body = await folder.read("context"), await folder.read("sum")
        try:
            own = await sums.open(SealedSum(round_.number, context, body, len(round_.included)))
        except Malformed:
            log.warning("one of these has spoilt the round", number=round_.number, devices=sorted(round_.taken))
            raise
    record = await office.watch.reached(round_.number, RoundState.OPENED)
    message = await sums.announcement(round_.number, record.opened)
    opened = own or await sums.fetch(message, deadline_s=office.plan.reveal_s)
    if await asyncio.to_thread(sha256, opened) != record.opened:
        raise Refused(Reason.DIGEST_MISMATCH, "the opened sum is not the one on chain")
    await folder.write("opening", envelope.pack(message))
    await folder.write("opened", opened)
    return machine.SumOpened(record.opened)


async def measure(office: Office, round_: Round) -> Event:
    """Compute the candidate, measure and explain it on our own reference set, and propose it."""
    folder = office.folder(round_)
    base, opened = await office.blobs.get(round_.base), await folder.read("opened")
    weight = admission.weight_of(round_.included)
    candidate = await office.workers.run(candidate_model, base, opened, office.policy.sealing, weight)
    model = await office.blobs.put(candidate)
    report: Report = await office.workers.run(
        examine, office.task_path, candidate, base, str(office.reference), office.plan.seed
    )
    await folder.write("explanation.json", report.explanation)
    await folder.write("measurement.json", report.measurement)
    if (await office.on_chain(round_)).state < RoundState.MEASURED:
        await office.chain.propose_candidate(
            office.name,
            round_.number,
            model=model,
            explanation=sha256(report.explanation),
            accuracy=ppm(report.accuracy),
        )
    return machine.CandidateProposed(model)


async def await_verdict(office: Office, round_: Round) -> Event:
    """Wait until the ballot can be closed, have the contract decide, and read what it decided."""
    number = round_.number
    m0 = await _wrapped_m0(office, round_.model) if number == 0 else None

    async def can_close() -> bool:
        ballot = await office.chain.ballot(office.name, number)
        decided = (await office.on_chain(round_)).state != RoundState.MEASURED
        return decided or ballot.can_close(await office.watch.now_s())

    while (await office.on_chain(round_)).state == RoundState.MEASURED:
        if m0 is not None:  # said again until there is a verdict: a validator may have come late
            await office.post.say(office.post.topics.candidate, Kind.CANDIDATE, encode(m0), policy=round_.policy)
        if await office.watch.within(SAY_AGAIN_S, can_close):
            await _finalise(office, number)
    record = await office.on_chain(round_)
    if record.state in (RoundState.APPROVED, RoundState.DEPLOYED, RoundState.ROLLED_BACK):
        return machine.Approved(record.deployment, record.accuracy, record.baseline)
    if record.state == RoundState.REJECTED:
        verdict = (await office.chain.ballot(office.name, number)).verdict
        return machine.Rejected(record.accuracy, record.baseline, verdict.name.lower().replace("_", " "))
    raise RoundEnded(number, record.state)


async def _finalise(office: Office, number: int) -> None:
    try:
        await office.chain.finalise(office.name, number)
    except ChainReverted as error:  # somebody was faster, or the chain's clock is behind ours
        log.info("no verdict yet", number=number, why=str(error))
        await office.post.clock.sleep(1.0)


async def _wrapped_m0(office: Office, model: Digest) -> Candidate:
    """M0 for the round's validators; every later candidate they compute themselves."""
    epoch = (await office.chain.round(office.name, 0)).epoch
    electorate = await electorate_of(office.electorates, office.chain, epoch)
    data = await office.blobs.get(model)
    wrapped = await asyncio.to_thread(boxes.wrap, data, [seat.box for seat in electorate.members])
    return Candidate(model, await office.transfers.offer(wrapped))


async def offer_model(office: Office, round_: Round) -> Event:
    """The model desk serves whatever is approved; nothing else is needed."""
    if not await office.blobs.has(round_.model):
        raise Refused(Reason.MISSING, f"approved model {round_.model[:12]}")
    return machine.ModelOffered()


async def await_deployed(office: Office, round_: Round) -> Event:
    """The chain listener records the deployment when the agents run it."""
    try:
        record = await office.watch.reached(round_.number, RoundState.DEPLOYED)
    except RoundEnded as ended:
        if ended.state != RoundState.ROLLED_BACK:
            raise
        return machine.WentBack()
    return machine.AllDeployed() if record.state == RoundState.DEPLOYED else machine.WentBack()


async def anchor_abort(office: Office, round_: Round) -> None:
    """Put the end of the round on chain."""
    if (await office.on_chain(round_)).state >= RoundState.APPROVED:
        return  # it is there already, or the contract decided before we gave up
    try:
        await office.chain.abort(office.name, round_.number, reason=round_.reason[:200])
    except ChainReverted as error:
        log.warning("abort not recorded", number=round_.number, why=str(error))


async def clean_up(office: Office, round_: Round) -> None:
    """Drop the round's offers and messages, and its ciphertexts where the plan does not keep them."""
    if round_.sum is not None:
        await office.transfers.withdraw(round_.sum)
    for entry in round_.entries.values():
        await office.transfers.withdraw(entry.transfer)
    await office.transfers.drop_unfinished()
    await office.mailbox.clear_through(round_.number)
    await office.letters.clear_through(round_.number)
    await office.ballots.clear_through(round_.number)
    if not office.plan.keep_frames:
        await office.folder(round_).drop_spool()
