"""Beginning a round: M0, the sealing context, the invitation, and the list of commitments."""

from __future__ import annotations

import asyncio

import structlog

from coordinator import machine
from coordinator.driver import Driver
from coordinator.machine import Event, Round, State
from coordinator.office import Office
from gemel.errors import ConfigError, IllegalEvent, PeerError, Refused
from gemel.exchange import admission
from gemel.exchange.admission import Terms
from gemel.exchange.round_contexts import announced_context
from gemel.exchange.round_folder import RoundFolder
from gemel.exchange.transfers import describe
from gemel.learning.measuring import initial_model
from gemel.ports import RoundState
from gemel.sealing import costs
from gemel.sealing.encrypted_training.plan import features_of, plan_for
from gemel.sealing.work import check_public_context
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Envelope, Header, Kind
from gemel.wire.messages import Invitation, Roster
from gemel.wire.reasons import Reason
from gemel.wire.types import Digest

log = structlog.get_logger(__name__)


async def genesis(office: Office) -> Round:
    """Round 0: make M0 and propose it. Raises ConfigError for another policy than the task's."""
    await _require_policy(office)
    m0 = await office.workers.run(initial_model, office.task_path, office.plan.seed, office.statistics)
    model = await office.blobs.put(m0)
    if (await office.chain.round(office.name, 0)).state == RoundState.NONE:
        await office.chain.propose_genesis(office.name, model=model, policy=office.policy.digest)
    now_ms = office.post.clock.now_ms()
    return machine.genesis(model, office.policy.digest, now_ms, now_ms + office.plan.decide_s * 1000)


async def begin(office: Office, number: int, base: Digest) -> Round | None:
    """Open a round on chain and wait for its sealing context; None (and aborted) where none comes.

    Raises ConfigError, before anybody trains, for a policy over budget, or another than the task's.
    """
    policy = office.policy
    await _require_policy(office)
    await _record_budget(office, number)
    await office.watch.refresh_parties()
    suspended = await office.scores.below_floor(tuple(office.agents.records))
    if suspended:
        log.warning("suspended devices take no part", number=number, devices=sorted(suspended))
    await office.chain.open_round(office.name, number, base=base, policy=policy.digest)
    began_ms = office.post.clock.now_ms()
    try:
        context = await _context(office, Terms(office.post.trust, number, base, policy))
    except (PeerError, TimeoutError) as error:
        log.warning("no sealing context", number=number, why=str(error))
        await office.chain.abort(office.name, number, reason="no sealing context")
        return None
    commit_until_ms = office.post.clock.now_ms() + office.plan.commit_s * 1000
    reveal_until_ms = commit_until_ms + office.plan.reveal_s * 1000
    return Round(
        number=number,
        state=State.OPEN,
        base=base,
        policy=policy.digest,
        context=context,
        suspended=suspended,
        expected=min(len(office.agents) - len(suspended), policy.sealing.contributors),
        minimum_owners=policy.minimum_owners,
        commit_until_ms=commit_until_ms,
        reveal_until_ms=reveal_until_ms,
        decide_until_ms=reveal_until_ms + office.plan.decide_s * 1000,
        entered_ms={State.OPEN: began_ms},
    )


async def _require_policy(office: Office) -> None:
    """The contract would refuse the round (PolicyDiffers)."""
    held, ours = (await office.chain.task(office.name)).policy, office.policy.digest
    if held != ours:
        allowed = f"the policy that the chain holds task {office.name} to, {held}; the file's is {ours}"
        raise ConfigError("settings", "policy_file", allowed)


async def _record_budget(office: Office, number: int) -> None:
    policy, manifest = office.policy, office.task.manifest
    parameters, encrypted = manifest.size, policy.training.encrypted
    described = costs.describe(policy, parameters, features_of(manifest) if encrypted else None)
    figures = costs.figures_of(policy.sealing, parameters)
    log.info(
        "budget", number=number, bytes=figures.body_bytes, bytes_a_parameter=round(figures.bytes_per_parameter, 2)
    )
    if encrypted:
        log.info("training", number=number, what=plan_for(policy, manifest, policy.sealing.weight_cap).table_line())
    if policy.exception:
        log.warning("policy", number=number, why=policy.exception)
    await RoundFolder(office.state_dir, number).write("budget.md", described.encode())


async def _context(office: Office, terms: Terms) -> Transfer:
    async with asyncio.timeout(office.plan.context_s):
        data = await announced_context(
            terms, office.task.manifest.size, office.mailbox, office.transfers, deadline_s=office.plan.context_s
        )
    # With a secret key in it we could read updates: the check raises, and this process never uses it.
    await office.workers.run(check_public_context, data, office.policy.sealing)
    await RoundFolder(office.state_dir, terms.round).write("context", data)
    return describe(data)


async def invite(office: Office, round_: Round) -> None:
    """Tell the agents; the invitation expires with the list."""
    assert round_.context is not None
    invitation = Invitation(
        policy=office.policy,
        context=round_.context,
        data_until_ms=office.post.clock.now_ms(),
        seed=office.plan.seed,
        commit_until_ms=round_.commit_until_ms,
        reveal_until_ms=round_.reveal_until_ms,
    )
    await office.announce(round_, office.post.topics.invitation, Kind.INVITATION, invitation, "invitation")


async def on_commitment(office: Office, driver: Driver, message: Envelope) -> None:
    """A commitment that holds joins the list; any other gets a receipt that says why."""
    device, number = message.header.sender, message.header.round
    round_ = driver.round
    try:
        if round_ is None or round_.state in machine.FINAL or number != round_.number:
            raise Refused(Reason.STALE_ROUND, f"round {number} is not the one that is open")
        if device in round_.suspended:
            raise Refused(Reason.SUSPENDED, "its trust is below the floor; time alone brings it back")
        entry = admission.read_commitment(message, office.terms(round_), office.agents)
        if round_.entries.get(device) == entry:
            return  # the very same again: QoS 1 may repeat
        if device in round_.entries:
            raise Refused(Reason.DUPLICATE, "one commitment a device")
        if len(round_.entries) >= office.policy.sealing.contributors:
            raise Refused(Reason.LATE, "the list is full")
        await driver.feed(machine.CommitmentHeld(entry, office.agents.records[device].owner))
    except IllegalEvent as error:
        await office.receipt(number, device, Refused(Reason.LATE, str(error)))
    except PeerError as error:
        await office.receipt(number, device, error)


async def on_refused_commitment(office: Office, header: Header, error: PeerError) -> None:
    """A commitment whose envelope does not hold: whoever it names as its sender gets to know why."""
    await office.receipt(header.round, header.sender, error)


async def anchor_list(office: Office, round_: Round) -> Event:
    """The roster's root goes on chain before anybody reveals."""
    if (await office.on_chain(round_)).state < RoundState.LISTED:
        root = admission.root_of(round_.entries.values())
        await office.chain.close_list(office.name, round_.number, root=root)
    return machine.ListAnchored()


async def publish_roster(office: Office, round_: Round) -> Event:
    """Whoever stands in it may now reveal."""
    entries = tuple(round_.entries[device] for device in sorted(round_.entries))
    roster = Roster(entries, admission.root_of(entries))
    await office.announce(round_, office.post.topics.roster, Kind.ROSTER, roster, "roster")
    return machine.RosterPublished()
