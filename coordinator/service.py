"""The coordinator's loop: one round after the other, each driven by the round machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from coordinator import collecting, deciding, inviting, machine
from coordinator.driver import RETRY_S, Driver, Performer
from coordinator.office import Office
from coordinator.requesting import RequestDesk
from gemel.errors import Unavailable
from gemel.ports import RoundState
from gemel.wire.envelope import Kind

MODEL_LOOK_S = 30.0  # how soon a rollback is noticed while requests are awaited

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
    """Hears agents, custodians and validators, and runs rounds."""

    office: Office
    driver: Driver
    desk: RequestDesk

    async def listen(self) -> None:
        """Subscribe; call once. A stored round is taken up first, for its messages may have waited for us."""
        await self.driver.restore()
        post, mailbox = self.office.post, self.office.mailbox
        custodians = post.trust.custodian_addresses
        on_commitment = partial(inviting.on_commitment, self.office, self.driver)
        on_stranger = partial(inviting.on_refused_commitment, self.office)
        await post.hear(
            post.topics.commitment(), Kind.COMMITMENT, self.office.agents, on_commitment, on_refused=on_stranger
        )
        await self.desk.listen()
        await self.office.letters.restore()
        on_letter = partial(collecting.on_letter_receipt, self.office, self.driver)
        await post.hear(post.topics.letter_receipt(), Kind.LETTER_RECEIPT, custodians, on_letter)
        await post.hear(post.topics.key_total(), Kind.KEY_TOTAL, custodians, mailbox.put)
        await post.hear(post.topics.context(), Kind.CONTEXT, custodians, mailbox.put)
        await post.hear(post.topics.opened(), Kind.OPENED, custodians, mailbox.put)
        await self.office.ballots.restore()
        await post.hear(post.topics.ballot(), Kind.BALLOT, self.office.validators, self.office.ballots.put)

    async def run(self) -> None:
        """Rounds without end, or as many as planned; goes on with a round that a crash interrupted."""
        await self._resume()
        while True:
            try:
                if not await self._next():
                    return
            except Unavailable as error:
                log.warning("once more", why=str(error), retry_s=RETRY_S)
                await self.office.post.clock.sleep(RETRY_S)

    async def _resume(self) -> None:
        office, stored = self.office, self.driver.round
        if stored is None:
            self.desk.close()
            await self.driver.run(await inviting.genesis(office))
            return
        if stored.state not in machine.FINAL:
            self.desk.close()
        log.info("going on with a stored round", number=stored.number, state=stored.state.value)
        again = partial(inviting.invite, office, stored) if stored.state == machine.State.OPEN else None
        await self.driver.run(on_begun=again)

    async def _next(self) -> bool:
        """One more round; False when all that were planned are done."""
        office = self.office
        number = (await office.chain.task(office.name)).last_round
        if (await office.chain.round(office.name, number)).state < RoundState.APPROVED:
            await office.chain.abort(office.name, number, reason="the coordinator lost its state")
        await office.watch.reached(number, RoundState.REJECTED, even_if_ended=True)  # final, whichever way
        if office.plan.rounds is not None and number >= office.plan.rounds:
            log.info("all planned rounds are done", rounds=number)
            return False
        if office.plan.on_request and number >= office.plan.unasked_rounds:
            await self._asked_for()
        else:
            await office.post.clock.sleep(office.plan.pause_s)
        await self.desk.begun()
        model_in_use = (await office.chain.task(office.name)).model
        round_ = await inviting.begin(office, number + 1, model_in_use)
        if round_ is not None:
            await self.driver.run(round_, partial(inviting.invite, office, round_))
        return True

    async def _asked_for(self) -> None:
        """Wait until enough agents have asked for a round, and the pause since the last one is over."""
        office = self.office
        self.desk.open((await office.chain.task(office.name)).model)
        await office.post.clock.sleep(office.plan.pause_s)
        while True:
            self.desk.open((await office.chain.task(office.name)).model)  # it may have been rolled back meanwhile
            try:
                async with asyncio.timeout(MODEL_LOOK_S):
                    return await self.desk.enough()
            except TimeoutError:
                continue
