"""python -m validator --config FILE: recomputes, measures, votes. All wiring is here."""

from __future__ import annotations

from pathlib import Path

from gemel.adapters.file_blobs import FileBlobs
from gemel.exchange.model_pull import ModelPull
from gemel.host.background import Background
from gemel.host.chain_party import ChainPartySettings, follow_chain, open_chain_party
from gemel.host.party import read_policy
from gemel.host.service import Host, run_configured
from gemel.host.workers import Workers
from gemel.learning.task import load_task
from validator.service import Validator


class ValidatorSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; the task, and a reference set that nobody else has."""

    task: str
    reference_file: Path


async def main(host: Host[ValidatorSettings]) -> None:
    """Wire and run until we are told to stop."""
    settings = host.settings
    async with open_chain_party(host) as opened, Workers() as workers, Background() as background:
        party = opened.party
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
            task=load_task(settings.task),
            task_path=settings.task,
            reference=settings.reference_file,
            policy=read_policy(settings.policy_file),
            state_dir=settings.state_dir,
            box_secret=party.keys.box_secret,
        )
        follow_chain(background, opened)
        await validator.listen()
        background.start(validator.run(), "rounds")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("validator", main, ValidatorSettings)
