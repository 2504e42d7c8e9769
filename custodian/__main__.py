"""python -m custodian --config FILE: holds the secrets of one task's rounds. All wiring is here."""

from __future__ import annotations

from custodian.held_key import HeldKeyOpening
from custodian.offers import Offers
from custodian.one_time import OneTimeOpening
from custodian.round_secrets import RoundSecrets
from custodian.service import Custodian, Opening
from custodian.training_desk import TrainingDesk
from gemel.exchange.chain_watch import AnyOf
from gemel.exchange.opened_sums import OpenedSums
from gemel.exchange.transfers import Transfers
from gemel.host.background import Background
from gemel.host.chain_party import ChainParty, ChainPartySettings, follow_chain, open_chain_party
from gemel.host.party import read_policy, serve_transfers
from gemel.host.service import Host, run_configured
from gemel.host.workers import Workers
from gemel.learning.task import Task, load_task
from gemel.sealing.encrypted_training.plan import plan_for
from gemel.wire.messages import Policy


class CustodianSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; and the task, whose model's size makes the key's."""

    task: str


async def main(host: Host[CustodianSettings]) -> None:
    """Wire and run until we are told to stop."""
    settings = host.settings
    task = load_task(settings.task)
    async with open_chain_party(host) as opened, Workers() as workers, Background() as background:
        party, policy = opened.party, read_policy(settings.policy_file, task)
        secrets = RoundSecrets(settings.state_dir / "keys")
        custodian = Custodian(
            post=party.post,
            mailbox=party.mailbox,
            chain=opened.chain,
            watch=opened.watch,
            agents=opened.agents,
            policy=policy,
            opening=_opening(host, opened, workers, background, policy, task, secrets),
            offers=Offers(party.transfers, party.records),
            secrets=secrets,
            count_refusal=host.metrics.message_refused,
        )
        follow_chain(background, opened)
        coordinator = {party.trust.coordinator.address}
        await serve_transfers(background, party, AnyOf(opened.agents, opened.validators, coordinator))
        await custodian.listen()
        background.start(custodian.run(), "rounds")
        host.ready()
        await host.stopping.wait()


def _opening(
    host: Host[CustodianSettings],
    opened: ChainParty,
    workers: Workers,
    background: Background,
    policy: Policy,
    task: Task,
    secrets: RoundSecrets,
) -> Opening:
    """As the policy's scheme demands."""
    party, parameters, count_refusal = opened.party, task.manifest.size, host.metrics.message_refused
    if policy.sealing.scheme == "one-time-keys":
        sums = OpenedSums(
            party.trust, policy.sealing, party.mailbox, party.transfers, workers.run, party.keys.box_secret
        )
        return OneTimeOpening(
            post=party.post,
            transfers=party.transfers,
            mailbox=party.mailbox,
            watch=opened.watch,
            agents=opened.agents,
            opened_sums=sums,
            policy=policy,
            parameters=parameters,
            secrets=secrets,
            count_refusal=count_refusal,
        )
    return HeldKeyOpening(
        post=party.post,
        transfers=party.transfers,
        records=party.records,
        offers=Offers(party.transfers, party.records),
        workers=workers,
        policy=policy,
        parameters=parameters,
        secrets=secrets,
        training=_training(host, opened, workers, background, policy, task) if policy.training.encrypted else None,
    )


def _training(
    host: Host[CustodianSettings],
    opened: ChainParty,
    workers: Workers,
    background: Background,
    policy: Policy,
    task: Task,
) -> TrainingDesk:
    party, settings = opened.party, host.settings
    requests = party.post.among(party.post.topics.training())
    return TrainingDesk(
        post=party.post,
        requests=Transfers(requests, settings.state_dir / "training-transfers", max_spool_bytes=settings.spool_bytes),
        offers=Offers(party.transfers, party.records),
        workers=workers,
        policy=policy,
        plan=plan_for(policy, task.manifest, policy.sealing.weight_cap),
        records=party.records,
        agents=opened.agents,
        secrets=RoundSecrets(settings.state_dir / "training-keys"),
        start=background.start,
        count_refusal=host.metrics.message_refused,
    )


if __name__ == "__main__":
    run_configured("custodian", main, CustodianSettings)
