"""python -m coordinator --config FILE: runs the rounds of one task. All wiring is here."""

from __future__ import annotations

from coordinator.ballot_checks import Domains
from coordinator.ballots import Ballots
from coordinator.driver import Driver
from coordinator.letters import Letters
from coordinator.model_desk import ModelDesk
from coordinator.office import Office
from coordinator.requesting import RequestDesk
from coordinator.service import Service, performers
from coordinator.settings import CoordinatorSettings
from gemel.adapters import contract_abi
from gemel.adapters.evm_trust import EvmTrust
from gemel.adapters.file_blobs import FileBlobs
from gemel.exchange.chain_watch import AnyOf
from gemel.exchange.opened_sums import OpenedSums
from gemel.host.background import Background
from gemel.host.chain_party import follow_chain, open_chain_party
from gemel.host.party import read_policy, read_statistics, serve_transfers
from gemel.host.service import Host, run_configured
from gemel.host.workers import Workers
from gemel.learning.task import load_task


async def main(host: Host[CoordinatorSettings]) -> None:
    """Wire and run until we are told to stop."""
    settings = host.settings
    task = load_task(settings.task)
    async with open_chain_party(host) as opened, Workers() as workers, Background() as background:
        party, policy = opened.party, read_policy(settings.policy_file, task)
        place, scores = opened.calls.place, EvmTrust(opened.calls)
        ballots = Ballots(
            party.post,
            opened.chain,
            scores,
            opened.watch,
            party.electorates,
            party.records,
            Domains(place.rounds, place.votes, place.domain(contract_abi.TRUST)),
            current=lambda: driver.round.number if driver.round else 0,
        )
        office = Office(
            post=party.post,
            transfers=party.transfers,
            mailbox=party.mailbox,
            chain=opened.chain,
            watch=opened.watch,
            agents=opened.agents,
            validators=opened.validators,
            electorates=party.electorates,
            scores=scores,
            ballots=ballots,
            blobs=FileBlobs(settings.state_dir / "blobs"),
            workers=workers,
            task=task,
            task_path=settings.task,
            reference=settings.reference_file,
            policy=policy,
            plan=settings.rounds,
            state_dir=settings.state_dir,
            box_secret=party.keys.box_secret,
            opened_sums=OpenedSums(
                party.trust, policy.sealing, party.mailbox, party.transfers, workers.run, party.keys.box_secret
            ),
            letters=Letters(party.records, tuple(c.address for c in party.trust.custodians), opened.agents),
            count_update=host.metrics.update,
            statistics=read_statistics(settings.statistics_file),
        )
        driver = Driver(
            party.records,
            host.clock,
            lambda: performers(office, driver),
            observe_phase=host.metrics.phase,
            on_stored=office.archive,
        )
        desk = ModelDesk(office)
        service = Service(office, driver, RequestDesk(office, party.records))
        follow_chain(background, opened)
        custodians = party.trust.custodian_addresses
        await serve_transfers(background, party, AnyOf(opened.agents, opened.validators, custodians), desk.requested)
        await service.listen()
        background.start(desk.run(), "model desk")
        background.start(ballots.run(), "ballots")
        background.start(service.run(), "rounds")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("coordinator", main, CoordinatorSettings)
