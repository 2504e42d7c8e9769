"""The validator's process. All wiring is here, and in validator/what_if_command.py.

python -m validator --config FILE              recomputes, measures, votes
python -m validator what-if --config FILE …    a twin's history through a candidate (docs/what-if.md)
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from gemel.adapters import contract_abi
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.evm_trust import EvmTrust
from gemel.adapters.file_blobs import FileBlobs
from gemel.exchange.model_pull import ModelPull
from gemel.exchange.opened_sums import OpenedSums
from gemel.host.background import Background
from gemel.host.chain_party import follow_chain, open_chain_party
from gemel.host.party import read_policy, read_statistics
from gemel.host.service import Host, run_configured
from gemel.host.workers import Workers
from gemel.learning.task import load_task
from gemel.ports import ChainEvent
from validator.reporting import Reporting
from validator.service import Validator
from validator.settings import ValidatorSettings
from validator.signing import SignedOnce
from validator.standing import StandingReporter
from validator.voting import Voting

WHAT_IF = "what-if"


async def main(host: Host[ValidatorSettings]) -> None:
    """Wire and run until we are told to stop."""
    settings = host.settings
    task = load_task(settings.task)
    async with open_chain_party(host) as opened, Workers() as workers, Background() as background:
        party, policy = opened.party, read_policy(settings.policy_file, task)
        place, scores = opened.calls.place, EvmTrust(opened.calls)
        signed = SignedOnce(
            party.records, party.keys.identity, rounds=place.rounds, trust=place.domain(contract_abi.TRUST)
        )
        voting = Voting(party.post, opened.chain, opened.watch, signed, place.votes, settings.patience_s)
        reporting = Reporting(
            party.post, scores, party.mailbox, signed, voting, trust=place.domain(contract_abi.TRUST)
        )
        validator = Validator(
            post=party.post,
            transfers=party.transfers,
            mailbox=party.mailbox,
            models=ModelPull(party.post, party.transfers, party.keys.box_secret),
            chain=opened.chain,
            watch=opened.watch,
            agents=opened.agents,
            blobs=FileBlobs(settings.state_dir / "blobs"),
            workers=workers,
            task=task,
            task_path=settings.task,
            reference=settings.reference_file,
            policy=policy,
            state_dir=settings.state_dir,
            box_secret=party.keys.box_secret,
            opened_sums=OpenedSums(
                party.trust, policy.sealing, party.mailbox, party.transfers, workers.run, party.keys.box_secret
            ),
            electorates=party.electorates,
            scores=scores,
            signed=signed,
            voting=voting,
            reporting=reporting,
            statistics=read_statistics(settings.statistics_file),
        )
        reporter = StandingReporter(
            post=party.post,
            electorates=party.electorates,
            chain=opened.chain,
            elections=EvmElections(opened.calls, confirmations=settings.chain.confirmations),
            interval_s=settings.standing_interval_s,
        )

        async def on_event(event: ChainEvent) -> None:
            await voting.on_event(event)
            await reporter.on_event(event)

        follow_chain(background, opened, on_event)
        await validator.listen()
        await reporting.listen(opened.validators)
        background.start(validator.run(), "rounds")
        background.start(reporter.run(), "standing")
        host.ready()
        await host.stopping.wait()


def _what_if(arguments: list[str]) -> None:
    """The command, imported only when it runs: the service needs nothing of it."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command(WHAT_IF)(import_module("validator.what_if_command").what_if)
    command(args=arguments, prog_name=f"python -m validator {WHAT_IF}")


if __name__ == "__main__":
    if sys.argv[1:2] == [WHAT_IF]:
        _what_if(sys.argv[2:])
    else:
        run_configured("validator", main, ValidatorSettings)
