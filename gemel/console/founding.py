"""Founding a fleet: keys for every party, the contracts on the chain, a first election, and the pinned files.

    <dir>/keys/<party>.json    identity and box secret, mode 0600 (gemel.adapters.key_files)
    <dir>/trust.json           whom agents believe (gemel.wire.trust.Trust)
    <dir>/policy.json          what rounds are held to, canonical: its SHA-256 is the policy's digest
    <dir>/chain.json           where the contracts are

Two steps, because the accounts of a chain that the demo founds must be funded in its first block: `create_keys`, then
`found`. Both may be called again after a failure; a fleet that stands is never founded over.

The founder is administrator of everything until all is set; then he hands that to the Administration contract, whose
calls wait for a delay in which any of its members can take them back. He stays the operator: parties, assets, tasks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from eth_hash.auto import keccak
from msgspec.structs import replace

from gemel.adapters import key_files
from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import (
    ADMINISTRATION,
    ASSET_REGISTRY,
    AUDIT_ANCHORS,
    DEVICE_REGISTRY,
    ELECTION,
    MAINTENANCE,
    QUALITY_VOTES,
    STAKE_TOKEN,
    TRUST,
)
from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import TOKEN, NetworkTerms, deploy
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.key_files import Keys
from gemel.console.fleet_files import CHAIN_FILE, KEYS_FOLDER, POLICY_FILE, TRUST_FILE
from gemel.console.funding import FOUNDING_GAS, REGISTRATION_GAS, ROUND_GAS, STAKING_GAS, fund
from gemel.errors import ConfigError
from gemel.ports import Chain, PartyRecord, Role
from gemel.sealing import costs
from gemel.sealing.encrypted_training.plan import check_policy, head_plan
from gemel.wire import topics
from gemel.wire.electorate import Electorate
from gemel.wire.identity import Identity
from gemel.wire.logs import ACCESS_LOG, DEPLOYMENT_LOG, log_id
from gemel.wire.messages import WHOLE, Collector, Policy, Positive, encode
from gemel.wire.registration import prove_possession
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Ppm

OPERATOR, COORDINATOR, CUSTODIAN, LISTENER = "operator", "coordinator", "custodian", "listener"
DEFAULT_ADMIN_ROLE = "00" * 32
EQUAL_STAKE = 1000  # whole tokens of each validator, where the plan names no stakes
RESERVE = 1000  # whole tokens from which good votes and good updates are paid, each

# What a plan need not say. Four bits cost no accuracy with error feedback (gemel/sealing/README.md).
DEFAULT_SCHEME, DEFAULT_BITS = "bfv-packed", 4

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


class AgentPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One gateway. `owner` is whom it belongs to: an address, or a name that stands for one (`owner_address`)."""

    name: str
    owner: str
    trust: Ppm = WHOLE  # r_k: how much its updates count, once policy.sealing.levels tells more than in from out
    assets: tuple[str, ...] = ()  # the machines whose twins it keeps, site/name: its owner's from now on


class GatePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the contract asks of a candidate; how many owners a sum needs stands in the policy."""

    threshold: Ppm  # the median accuracy that a candidate must reach
    max_regression: Ppm  # how far it may fall below the model in use


class FleetPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that founding needs to know."""

    fleet: str
    task: str
    rpc_url: str
    chain_id: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    validators: Annotated[int, msgspec.Meta(ge=1, le=100)]
    gate: GatePlan
    policy: Policy
    agents: tuple[AgentPlan, ...]
    custodians: Literal[1, 3] = 1  # of three any two can open a sum, under one-time keys
    stakes: tuple[Positive, ...] = ()  # whole tokens, by validator; all equal where there are none
    network: NetworkTerms = NetworkTerms()
    technicians: tuple[Address, ...] = ()  # who may acknowledge maintenance orders and do the work
    inspectors: tuple[Address, ...] = ()  # who may verify another's work
    administrators: tuple[Address, ...] = ()  # members of the Administration; the operator where there are none

    @property
    def custodian_names(self) -> tuple[str, ...]:
        """custodian, and custodian-2 and custodian-3 where there are three."""
        return (CUSTODIAN, *(f"{CUSTODIAN}-{number}" for number in range(2, self.custodians + 1)))

    @property
    def validator_names(self) -> tuple[str, ...]:
        """validator-1, validator-2, ..."""
        return tuple(f"validator-{number}" for number in range(1, self.validators + 1))

    @property
    def stake_of(self) -> dict[str, int]:
        """Whole tokens by the validator's name."""
        stakes = self.stakes or (EQUAL_STAKE,) * self.validators
        return dict(zip(self.validator_names, stakes, strict=True))

    @property
    def party_names(self) -> tuple[str, ...]:
        """Everybody who gets keys."""
        services = (OPERATOR, COORDINATOR, *self.custodian_names, LISTENER, *self.validator_names)
        return (*services, *(agent.name for agent in self.agents))


def load_plan(path: Path) -> FleetPlan:
    """A plan from a TOML file. Raises ConfigError naming the file and the key."""
    try:
        plan = msgspec.convert(_with_defaults(tomllib.loads(path.read_text())), FleetPlan)
    except OSError as error:
        raise ConfigError(str(path), "plan", f"a readable file ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigError(str(path), "plan", str(error)) from error
    check_plan(plan, str(path))
    return plan


def _with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    match document:
        case {"policy": {"sealing": dict(sealing)}}:
            sealing.setdefault("scheme", DEFAULT_SCHEME)
            sealing.setdefault("bits", DEFAULT_BITS)
    return document


def check_plan(plan: FleetPlan, source: str) -> None:
    """Raises ConfigError for a plan by which no round could ever be decided, or whose names clash."""
    for text, what in ((plan.fleet, "fleet"), (plan.task, "task"), *((a.name, "agents.name") for a in plan.agents)):
        topics.name(text, f"{source}: {what}")
    names = plan.party_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(source, "agents.name", f"each name once, and none of the services'; {twice[0]} is taken")
    if plan.stakes and len(plan.stakes) != plan.validators:
        raise ConfigError(source, "stakes", f"one for each of {plan.validators} validators, {len(plan.stakes)} given")
    if not plan.network.minimum_seats <= plan.validators:
        raise ConfigError(source, "network.minimum_seats", f"at most {plan.validators}, the number of validators")
    for asset in (asset for agent in plan.agents for asset in agent.assets):
        site, _, name = asset.partition("/")
        topics.name(site, f"{source}: agents.assets"), topics.name(name, f"{source}: agents.assets")
    minimum = plan.policy.minimum_owners
    owners = {owner_address(agent.owner, source) for agent in plan.agents}
    if len(owners) < minimum:
        raise ConfigError(
            source, "agents.owner", f"{minimum} distinct owners (policy.minimum_owners), {len(owners)} given"
        )
    if plan.policy.sealing.contributors < minimum:
        raise ConfigError(source, "policy.sealing.contributors", f"at least policy.minimum_owners, {minimum}")
    if plan.policy.sealing.max_share * minimum < WHOLE:
        least = -(-WHOLE // minimum)
        raise ConfigError(source, "policy.sealing.max_share", f"at least {least}: of {minimum}, somebody has as much")
    costs.check_custodians(plan.policy.sealing, plan.custodians)
    costs.figures_of(plan.policy.sealing, 1).check(plan.policy.max_frame_bytes)
    if plan.policy.training.encrypted:  # of what does not depend on the model
        check_policy(plan.policy, head_plan(plan.policy.training, 1, 1, plan.policy.sealing.weight_cap))


def owner_address(owner: str, source: str = "plan") -> Address:
    """The address of an owner. A name stands for an address without a key: owners sign nothing, they are counted."""
    if _ADDRESS.fullmatch(owner):
        return owner
    if not owner or owner.startswith("0x"):
        raise ConfigError(
            source, "agents.owner", f"an address (0x and 40 hex digits in lower case) or a name, not {owner!r}"
        )
    return "0x" + keccak(b"gemel owner " + owner.encode())[-20:].hex()


def create_keys(directory: Path, plan: FleetPlan) -> dict[str, Keys]:
    """Key files for every party, by its name; those that are there already are kept. Raises ConfigError."""
    check_plan(plan, "plan")
    folder = directory / KEYS_FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(str(folder), "directory", f"a folder that can be made ({error.strerror})") from error
    paths = {name: folder / f"{name}.json" for name in plan.party_names}
    return {name: key_files.load(path) if path.exists() else key_files.create(path) for name, path in paths.items()}


async def found(
    directory: Path, plan: FleetPlan, keys: Mapping[str, Keys], *, funder: Identity | None = None, rounds: int = 1
) -> Trust:
    """Deploy the contracts, register everybody, elect, create the task, hand over, and write the pinned files.

    Before, every account that sends transactions must be able to pay for this and for so many `rounds`; what it
    lacks comes from `funder`. Raises ConfigError (a bad plan, a fleet that stands already, a node on another chain,
    accounts that cannot pay), ChainReverted, ChainUnavailable. After a failure call it again: new contracts are
    made, and those of the failed try stay empty.
    """
    check_plan(plan, "plan")
    _require_free(directory)
    operator = keys[OPERATOR].identity
    gas = {name: (keys[name].identity.address, units) for name, units in _gas(plan, rounds).items()}
    await fund(plan.rpc_url, plan.chain_id, gas, funder)
    place = await deploy(
        plan.rpc_url,
        operator,
        plan.chain_id,
        terms=plan.network,
        tokens=_tokens(plan, keys),
        administrators=plan.administrators or (operator.address,),
    )
    async with EvmChain(place, operator) as chain:
        await _enter(chain, plan, keys)
        await _elect(chain.calls, plan, keys)
        policy = policy_of(plan, keys)
        await _create_task(chain, plan, policy)
        electorate = await chain.electorate(plan.task, await chain.epoch())
        await _hand_over(chain.calls, plan, keys)
    trust = _trust(plan, keys, place, electorate)
    _write(directory / CHAIN_FILE, place)
    (directory / POLICY_FILE).write_bytes(encode(policy))
    _write(directory / TRUST_FILE, trust)  # last: a fleet with trust.json is whole
    return trust


def policy_of(plan: FleetPlan, keys: Mapping[str, Keys]) -> Policy:
    """The fleet's policy: the plan's, and how far each agent is trusted, by its address."""
    doubted = {keys[agent.name].identity.address: agent.trust for agent in plan.agents if agent.trust < WHOLE}
    return replace(plan.policy, trust={**plan.policy.trust, **doubted})


def _tokens(plan: FleetPlan, keys: Mapping[str, Keys]) -> dict[Address, int]:
    """Who begins with how many whole tokens: each validator with its stake, the operator with the rewards."""
    stakes = {keys[name].identity.address: stake for name, stake in plan.stake_of.items()}
    return stakes | {keys[OPERATOR].identity.address: 2 * RESERVE}


async def _enter(chain: EvmChain, plan: FleetPlan, keys: Mapping[str, Keys]) -> None:
    """Everybody into the device registry, each with the proof that it holds its key; and their machines."""
    operator, devices = keys[OPERATOR].identity.address, chain.calls.place.devices
    members = [(name, operator, role) for name, role in _services(plan).items()]
    members += [(agent.name, owner_address(agent.owner), Role.AGENT) for agent in plan.agents]
    for name, owner, role in members:
        identity, box = keys[name].identity, keys[name].box
        proof = prove_possession(identity, devices, owner=owner, role=role, box=box)
        await chain.register(PartyRecord(identity.address, owner, role, box, active=True), proof)
    for agent in plan.agents:
        for asset in agent.assets:
            await chain.calls.send(ASSET_REGISTRY, "assign", *asset.split("/"), owner_address(agent.owner))


async def _elect(calls: ContractCalls, plan: FleetPlan, keys: Mapping[str, Keys]) -> None:
    """The first election: every validator stakes what it was given."""
    for name, stake in plan.stake_of.items():
        async with ContractCalls(calls.place, keys[name].identity) as own:
            await EvmElections(own).stake(stake * TOKEN)
    elections = EvmElections(calls)
    await elections.fund(RESERVE * TOKEN)
    await elections.close_epoch()


async def _create_task(chain: Chain, plan: FleetPlan, policy: Policy) -> None:
    """The task with its gate and its policy."""
    await chain.create_task(
        plan.task,
        threshold=plan.gate.threshold,
        max_regression=plan.gate.max_regression,
        minimum_owners=policy.minimum_owners,
        quorum_part=plan.network.quorum_part,
        policy=policy.digest,
    )


async def _hand_over(calls: ContractCalls, plan: FleetPlan, keys: Mapping[str, Keys]) -> None:
    """The roles that founding gives; and then the right to give any goes to the Administration."""
    listener, founder = keys[LISTENER].identity.address, keys[OPERATOR].identity.address
    administration = calls.place.contracts[ADMINISTRATION]
    await calls.send(STAKE_TOKEN, "approve", calls.place.contracts[TRUST], RESERVE * TOKEN)
    await calls.send(TRUST, "fund", RESERVE * TOKEN)
    scorer = await calls.call(ELECTION, "SCORER_ROLE")
    await calls.send(ELECTION, "grantRole", scorer, calls.place.contracts[QUALITY_VOTES])
    for role_name, members in (("TECHNICIAN_ROLE", plan.technicians), ("INSPECTOR_ROLE", plan.inspectors)):
        role = await calls.call(MAINTENANCE, role_name)
        for member in members:
            await calls.send(MAINTENANCE, "grantRole", role, member)
    for log in (DEPLOYMENT_LOG, ACCESS_LOG):
        writer = await calls.call(AUDIT_ANCHORS, "writerRole", log_id(log))
        await calls.send(AUDIT_ANCHORS, "grantRole", writer, listener)
    for contract in (ELECTION, MAINTENANCE, AUDIT_ANCHORS, DEVICE_REGISTRY):
        await calls.send(contract, "grantRole", DEFAULT_ADMIN_ROLE, administration)
        await calls.send(contract, "renounceRole", DEFAULT_ADMIN_ROLE, founder)


def _services(plan: FleetPlan) -> dict[str, Role]:
    """Everybody who writes to the contracts, but for the operator."""
    roles = {COORDINATOR: Role.COORDINATOR, LISTENER: Role.LISTENER}
    roles |= dict.fromkeys(plan.custodian_names, Role.CUSTODIAN)
    return roles | dict.fromkeys(plan.validator_names, Role.VALIDATOR)


def _gas(plan: FleetPlan, rounds: int) -> dict[str, int]:
    """What everybody's transactions may use, founding included."""
    services = _services(plan)
    founding = FOUNDING_GAS + REGISTRATION_GAS * (len(services) + len(plan.agents))
    gas = {name: ROUND_GAS[role] * rounds for name, role in services.items()}
    return {OPERATOR: founding} | gas | {name: gas[name] + STAKING_GAS for name in plan.validator_names}


def _trust(plan: FleetPlan, keys: Mapping[str, Keys], place: ChainPlace, electorate: Electorate) -> Trust:
    def collector(name: str) -> Collector:
        return Collector(keys[name].identity.address, keys[name].box)

    return Trust(
        fleet=plan.fleet,
        task=plan.task,
        chain_id=plan.chain_id,
        registry=place.rounds.registry,
        coordinator=collector(COORDINATOR),
        custodians=tuple(collector(name) for name in plan.custodian_names),
        listener=keys[LISTENER].identity.address,
        electorate=electorate,
        maintenance=place.contracts[MAINTENANCE],
    )


def _require_free(directory: Path) -> None:
    for name in (TRUST_FILE, POLICY_FILE, CHAIN_FILE):
        if (directory / name).exists():
            raise ConfigError(str(directory), name, "a directory without a fleet; one has been founded here already")


def _write(path: Path, document: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
