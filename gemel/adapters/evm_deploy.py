"""Put a fleet's contracts on a chain, in the order of contracts/README.md: once for each fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import (
    ADMINISTRATION,
    ASSET_REGISTRY,
    AUDIT_ANCHORS,
    DATA_SHARING,
    DEVICE_REGISTRY,
    ELECTION,
    MAINTENANCE,
    QUALITY_VOTES,
    ROUND_REGISTRY,
    STAKE_TOKEN,
    TRUST,
    load,
)
from gemel.adapters.evm_node import EvmNode
from gemel.adapters.evm_transactions import Sender
from gemel.wire.electorate import QuorumPart
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Digest, Ppm

TOKEN = 10**18  # a whole token in the units of the contract
_Seconds = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_Part = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class NetworkTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a consortium decides once, when it founds its network: the contracts keep it as it is."""

    quorum_part: QuorumPart = 666_666  # ppm of the elected stake; of three equal ones, two
    seats: Annotated[int, msgspec.Meta(ge=1, le=128)] = 21
    minimum_seats: Annotated[int, msgspec.Meta(ge=1, le=128)] = 1  # four tolerate one traitor
    minimum_stake: _Tokens = 1
    epoch_s: _Seconds = 86_400
    unbonding_s: _Seconds = 7 * 86_400
    epoch_reward: _Tokens = 1
    slash_part: _Part = 500_000  # ppm
    commit_s: _Seconds = 120  # for validators to measure and commit; shorter once all have
    reveal_s: _Seconds = 120
    tolerance: _Part = 100_000  # ppm; so far off the median earns nothing
    initial_trust: Ppm = 1_000_000
    trust_floor: Ppm = 200_000
    trust_step: _Part = 200_000
    trust_half_life_s: _Seconds = 30 * 86_400
    round_reward: _Tokens = 1
    administration_delay_s: Annotated[int, msgspec.Meta(ge=3600, le=2**40)] = 86_400


async def deploy(
    rpc_url: str,
    operator: Identity,
    chain_id: int,
    *,
    terms: NetworkTerms,
    tokens: Mapping[Address, int],
    administrators: tuple[Address, ...],
) -> ChainPlace:
    """Create every contract, with `operator` as administrator of all until it hands over (`gemel.console.founding`).

    `tokens` are the whole tokens that each holder begins with; nobody can make more. Raises ConfigError for a node on
    another chain, ChainReverted, ChainUnavailable.
    """
    contracts: dict[str, Address] = {}
    created_in: dict[str, Digest] = {}
    async with EvmNode(rpc_url) as node:
        await node.require_chain(chain_id)
        sender = Sender(node, operator, chain_id)
        first_block = (await node.head()).number + 1

        async def create(name: str, *arguments: object) -> Address:
            receipt = await sender.send(f"create {name}", None, load(name).deployment(*arguments))
            assert receipt.created is not None  # the receipt of a creation that succeeded names the contract
            contracts[name], created_in[name] = receipt.created, receipt.transaction
            return receipt.created

        admin = operator.address
        devices = await create(DEVICE_REGISTRY, admin)
        rounds = await create(ROUND_REGISTRY, devices)
        token = await create(STAKE_TOKEN, list(tokens), [amount * TOKEN for amount in tokens.values()])
        election = await create(ELECTION, token, devices, rounds, admin, _election_terms(terms))
        votes = await create(QUALITY_VOTES, rounds, election, (terms.tolerance, terms.commit_s, terms.reveal_s))
        bind = load(ROUND_REGISTRY).functions["bind"].encode(election, votes)
        await sender.send("bind", rounds, bind)
        await create(TRUST, devices, election, token, terms.quorum_part, _trust_terms(terms))
        assets = await create(ASSET_REGISTRY, devices)
        await create(DATA_SHARING, assets)
        await create(MAINTENANCE, devices, assets, admin)
        await create(AUDIT_ANCHORS, admin)
        await create(ADMINISTRATION, terms.administration_delay_s, list(administrators))
    return ChainPlace(rpc_url, chain_id, first_block, contracts, created_in)


def _election_terms(terms: NetworkTerms) -> tuple[int, ...]:
    capacity = 128
    stakes = (terms.minimum_stake * TOKEN, terms.epoch_s, terms.unbonding_s, terms.epoch_reward * TOKEN)
    return (terms.seats, terms.minimum_seats, capacity, *stakes, terms.slash_part)


def _trust_terms(terms: NetworkTerms) -> tuple[int, ...]:
    scores = (terms.initial_trust, terms.trust_floor, terms.trust_step, terms.trust_half_life_s)
    return (*scores, terms.round_reward * TOKEN)
