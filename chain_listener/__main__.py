"""python -m chain_listener --config FILE: what the chain approved becomes a deployment. All wiring is here."""

from __future__ import annotations

from chain_listener.service import ChainListener
from gemel.host.background import Background
from gemel.host.chain_party import ChainPartySettings, follow_chain, open_chain_party
from gemel.host.service import Host, run_configured
from gemel.host.settings import Seconds


class ListenerSettings(ChainPartySettings):
    """State, trust, key and policy files, [bus], [chain]."""

    patience_s: Seconds = 120.0  # for the fleet to install; after that those that have it count


async def main(host: Host[ListenerSettings]) -> None:
    """Wire and run until we are told to stop."""
    async with open_chain_party(host) as opened, Background() as background:
        party = opened.party
        listener = ChainListener(party.post, opened.chain, opened.agents, party.records, host.settings.patience_s)
        await listener.listen()
        follow_chain(background, opened, listener.on_event)
        background.start(listener.run(), "deployments")
        host.ready()
        await host.stopping.wait()


if __name__ == "__main__":
    run_configured("chain-listener", main, ListenerSettings)
