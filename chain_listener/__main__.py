"""python -m chain_listener --config FILE: what the chain approved becomes a deployment. All wiring is here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chain_listener.deploying import Deploying
from chain_listener.handovers import EpochKeeper, Handovers
from chain_listener.staging import StagingPolicy
from gemel.adapters.evm_elections import EvmElections
from gemel.exchange.standings import Standings
from gemel.host.background import Background
from gemel.host.chain_party import ChainPartySettings, follow_chain, open_chain_party
from gemel.host.service import Host, run_configured
from gemel.host.settings import Seconds
from gemel.ports import ChainEvent

Share = Annotated[float, Field(ge=0, le=1)]


class ListenerSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]; how carefully models go out (chain_listener/staging.py)."""

    patience_s: Seconds = 120.0  # for the fleet to install; after that those that have it count
    canary_share: Annotated[float, Field(gt=0, le=1)] = 0.25  # of the active agents try it first; 1: nobody does
    canary_patience_s: Seconds = 300.0  # for canaries to install it, and to say how it does
    unhealthy_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the canaries may be unwell
    healthy_share: Share = 0.5  # of the canaries must be well when the patience ends

    @property
    def staging(self) -> StagingPolicy:
        """How carefully models go out."""
        return StagingPolicy(
            canary_share=self.canary_share,
            canary_patience_s=self.canary_patience_s,
            unhealthy_share=self.unhealthy_share,
            healthy_share=self.healthy_share,
            patience_s=self.patience_s,
        )


async def main(host: Host[ListenerSettings]) -> None:
    """Wire and run until we are told to stop."""
    async with open_chain_party(host) as opened, Background() as background:
        party = opened.party
        standings = Standings(party.post, party.electorates)
        await standings.listen()
        deploying = Deploying(
            party.post, opened.chain, opened.agents, party.records, standings, host.settings.staging
        )
        handovers = Handovers(party.post, party.records, party.electorates, standings)
        standings.on_heard = handovers.look
        await deploying.listen()

        async def on_event(event: ChainEvent) -> None:
            for part in (handovers, deploying):
                await part.on_event(event)

        follow_chain(background, opened, on_event)
        background.start(deploying.run(), "deployments")
        background.start(handovers.run(), "handovers")
        background.start(EpochKeeper(party.post, EvmElections(opened.calls)).run(), "epochs")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("chain-listener", main, ListenerSettings)
