"""A party that also reads and writes the chain. Gateways do not import this: they need no web3."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_transactions import SendingPolicy
from gemel.errors import ConfigError
from gemel.exchange.chain_watch import ChainWatch, EventHandler, Parties
from gemel.host.background import Background
from gemel.host.party import Party, PartySettings, open_party
from gemel.host.service import Host
from gemel.host.settings import ChainSection
from gemel.ports import Chain, ChainEvent, Role


class ChainPartySettings(PartySettings):
    """Settings of a service on chain."""

    chain: ChainSection
    policy_file: Path  # the one policy whose rounds it takes part in


S = TypeVar("S", bound=ChainPartySettings)


@dataclass(frozen=True, slots=True)
class ChainParty:
    """One open party with its view of the chain. `agents` and `validators` follow the device registry."""

    party: Party
    chain: Chain
    calls: ContractCalls  # the same connection, for the adapters of the other chain ports
    watch: ChainWatch
    agents: Parties
    validators: Parties


@asynccontextmanager
async def open_chain_party(host: Host[S]) -> AsyncIterator[ChainParty]:
    """Open bus and chain; raises ConfigError where the pinned registry is not the configured one."""
    settings = host.settings
    async with open_party(host) as party:
        place, trust = settings.chain.place(), party.trust
        if place.rounds != trust.domain:
            pinned, named = trust.domain, place.rounds
            raise ConfigError(
                str(settings.trust_file),
                "registry",
                f"{named.registry} of chain {named.chain_id}, as {settings.chain.file} says; "
                f"it pins {pinned.registry} of chain {pinned.chain_id}",
            )
        agents, validators = Parties(Role.AGENT), Parties(Role.VALIDATOR)
        connection = EvmChain(
            place,
            party.keys.identity,
            confirmations=settings.chain.confirmations,
            ws_url=settings.chain.ws_url,
            sending=SendingPolicy(max_fee_gwei=settings.chain.max_fee_gwei, stuck_s=settings.chain.stuck_s),
        )
        async with connection as chain:
            checkpoint = settings.state_dir / "events.sqlite"
            watch = ChainWatch(chain, trust.task, checkpoint, host.clock, agents, validators)
            host.metrics.chain_lag_blocks.set_function(lambda: chain.lag_blocks)
            await watch.refresh_parties()
            if epoch := await chain.epoch():
                await party.electorates.adopt(await chain.electorate(trust.task, epoch))
            yield ChainParty(party, chain, chain.calls, watch, agents, validators)


def follow_chain(background: Background, opened: ChainParty, on_event: EventHandler | None = None) -> None:
    """Follow events from now on: elections ourselves, before `on_event` hears of them."""
    party = opened.party

    async def follow(event: ChainEvent) -> None:
        if event.name == "EpochClosed" and not event.retracted:
            elected = await opened.chain.electorate(party.trust.task, int(str(event.values["epoch"])))
            await party.electorates.adopt(elected)
        if on_event is not None:
            await on_event(event)

    background.start(opened.watch.run(follow), "chain events")
