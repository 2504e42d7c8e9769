"""The coordinator's loop: one round after the other, each driven by the round machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import structlog

from coordinator import collecting, deciding, inviting, machine
from coordinator.driver import Driver, Performer
from coordinator.office import Office
from gemel.wire.envelope import Kind

log = structlog.get_logger(__name__)


def performers(office: Office, driver: Driver) -> dict[type[machine.Effect], Performer]:
    """Which step does which effect."""
    return {
        machine.AnchorList: partial(inviting.anchor_list, office),
        machine.PublishRoster: partial(inviting.publish_roster, office),
        machine.CollectFrames: partial(collecting.collect_frames, office, driver),
        machine.AddFrames: partial(collecting.add_frames, office),
        machine.AnchorSum: partial(collecting.anchor_sum, office),
        machine.PublishAggregate: partial(collecting.publish_aggregate, office),
        machine.AwaitConfirmation: partial(deciding.await_confirmation, office),
        machine.AwaitOpening: partial(deciding.await_opening, office),
        machine.Measure: partial(deciding.measure, office),
        machine.AwaitVerdict: partial(deciding.await_verdict, office),
        machine.OfferModel: partial(deciding.offer_model, office),
        machine.AwaitDeployed: partial(deciding.await_deployed, office),
        machine.AnchorAbort: partial(deciding.anchor_abort, office),
        machine.CleanUp: partial(deciding.clean_up, office),
    }


@dataclass(frozen=True, slots=True)
class Service:
    """Hears agents and custodian, and runs rounds."""

    office: Office
    driver: Driver

    async def listen(self) -> None:
        """Subscribe; call once."""
        post, mailbox = self.office.post, self.office.mailbox
        custodian = {post.trust.custodian.address}
        on_commitment = partial(inviting.on_commitment, self.office, self.driver)
        on_stranger = partial(inviting.on_refused_commitment, self.office)
        await post.hear(
            post.topics.commitment(), Kind.COMMITMENT, self.office.agents, on_commitment, on_refused=on_stranger
        )
        await post.hear(post.topics.context, Kind.CONTEXT, custodian, mailbox.put)
        await post.hear(post.topics.opened, Kind.OPENED, custodian, mailbox.put)

    async def run(self) -> None:
        """Rounds without end, or as many as planned; goes on with a round that a crash interrupted."""
        office = self.office
        stored = await self.driver.stored()
        if stored is None:
            await self.driver.run(await inviting.genesis(office))
        elif stored.state not in machine.FINAL:
            log.info("going on with a stored round", number=stored.number, state=stored.state.value)
            await self.driver.run(stored)
        while True:
            record = await office.chain.task(office.name)
            if office.plan.rounds is not None and record.last_round >= office.plan.rounds:
                log.info("all planned rounds are done", rounds=record.last_round)
                return
            await office.post.clock.sleep(office.plan.pause_s)
            last = await office.chain.round(office.name, record.last_round)
            if machine.State(last.state.name.lower()) not in machine.FINAL:
                await office.chain.abort(office.name, record.last_round, reason="the coordinator lost its state")
            round_ = await inviting.begin(office, record.last_round + 1, record.model)
            if round_ is not None:
                await self.driver.run(round_, partial(inviting.invite, office, round_))
