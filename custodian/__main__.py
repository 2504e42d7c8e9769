"""python -m custodian --config FILE: holds the sealing key of one task's rounds. All wiring is here."""

from __future__ import annotations

from custodian.service import Custodian
from gemel.exchange.chain_watch import AnyOf
from gemel.host.background import Background
from gemel.host.chain_party import ChainPartySettings, follow_chain, open_chain_party
from gemel.host.party import read_policy, serve_transfers
from gemel.host.service import Host, run_configured
from gemel.host.workers import Workers
from gemel.learning.task import load_task


class CustodianSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; and the task, whose model's size makes the key's."""

    task: str


async def main(host: Host[CustodianSettings]) -> None:
    """Wire and run until we are told to stop."""
    settings = host.settings
    task = load_task(settings.task)
    async with open_chain_party(host) as opened, Workers() as workers, Background() as background:
        party = opened.party
        custodian = Custodian(
            post=party.post,
            transfers=party.transfers,
            mailbox=party.mailbox,
            chain=opened.chain,
            watch=opened.watch,
            agents=opened.agents,
            records=party.records,
            workers=workers,
            policy=read_policy(settings.policy_file, task),
            parameters=task.manifest.size,
            keys_dir=settings.state_dir / "keys",
            count_refusal=host.metrics.message_refused,
        )
        follow_chain(background, opened)
        coordinator = {party.trust.coordinator.address}
        await serve_transfers(background, party, AnyOf(opened.agents, opened.validators, coordinator))
        await custodian.listen()
        background.start(custodian.run(), "rounds")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("custodian", main, CustodianSettings)
