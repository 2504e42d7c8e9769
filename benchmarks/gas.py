"""What every call of every contract costs, from the receipts of real transactions on anvil.

Everything goes through the Python adapters, or, where no service ever calls a function, through the connection that
they stand on. Afterwards the whole chain is read, block by block, and each receipt is booked under the function that
its transaction called; so nothing that was sent is left out.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rounds import POLICY, Rounds
from gemel.adapters.contract_abi import (
    ADMINISTRATION,
    AUDIT_ANCHORS,
    CONTRACTS,
    DEVICE_REGISTRY,
    ELECTION,
    MAINTENANCE,
    QUALITY_VOTES,
    STAKE_TOKEN,
    load,
)
from gemel.adapters.evm_anchors import EvmAnchors
from gemel.adapters.evm_deploy import TOKEN, NetworkTerms
from gemel.adapters.evm_elections import EvmElections
from gemel.adapters.evm_trust import EvmTrust
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.ports import Role
from gemel.wire import topics
from gemel.wire.attestations import ModelAttestation, SumAttestation, attest
from gemel.wire.eip712 import task_id
from gemel.wire.identity import Identity
from gemel.wire.logs import DEPLOYMENT_LOG, log_id
from gemel.wire.messages import DeviceResult
from gemel.wire.sharing import Asset, Grant
from gemel.wire.trust_report import sign_report
from gemel.wire.types import NO_ADDRESS, NO_DIGEST, Digest, sha256
from gemel.wire.upkeep import OrderState, Step, order_of, sign_alert, sign_step
from tests.support.chains import FUNDED, OPERATOR, Fleet, open_fleet, running_chain
from tests.support.grants import Notary
from tests.support.parties import LISTENER, identity

_CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
SNAPSHOT, GENERATED = _CONTRACTS / "snapshots/Round.json", _CONTRACTS / "generated"
TASK, REPORT = "condition", sha256(b"report")
VALIDATORS = tuple(identity(n) for n in (11, 12, 13, 14, 15))
STAKES = (500, 400, 300, 200, 100)  # whole tokens
OWNER, CONSUMER, TECHNICIAN, INSPECTOR = (identity(n) for n in (31, 32, 33, 34))
DEVICES = tuple(identity(n) for n in range(101, 111))
RIG = Asset("bonn", "rig-1")
HOUR_S = 3600
FIRST_UNBONDING = 0
TERMS = NetworkTerms(epoch_s=HOUR_S, unbonding_s=2 * HOUR_S, administration_delay_s=HOUR_S, quorum_part=666_667)
GATE = {"threshold": 600_000, "max_regression": 20_000, "minimum_owners": 3, "quorum_part": TERMS.quorum_part}


@dataclass(frozen=True, slots=True)
class Spent:
    """What one transaction cost; a creation is booked under `created`."""

    block: int
    contract: str
    function: str
    gas: int


async def ledger(fleet: Fleet) -> list[Spent]:
    """Every transaction of the chain, in its order. Raises RuntimeError for one that failed."""
    names = {address: name for name, address in fleet.place.contracts.items()}
    found = []
    for number in range((await fleet.operator.head()).block + 1):
        block: Any = await fleet.chain.rpc("eth_getBlockByNumber", hex(number), True)
        for sent in block["transactions"]:
            receipt: Any = await fleet.chain.rpc("eth_getTransactionReceipt", sent["hash"])
            if receipt["status"] != "0x1":
                raise RuntimeError(f"{sent['hash']} failed")
            contract = names[(sent["to"] or receipt["contractAddress"]).lower()]
            found.append(Spent(number, contract, function_of(contract, sent), int(receipt["gasUsed"], 16)))
    return found


def function_of(contract: str, sent: Mapping[str, Any]) -> str:
    """What a transaction calls."""
    if sent["to"] is None:
        return "created"
    selector = bytes.fromhex(sent["input"][2:10])
    return next(entry.name for entry in load(contract).functions.values() if entry.selector == selector)


def by_call(spent: Sequence[Spent]) -> dict[str, dict[str, dict[str, int]]]:
    """Contract, then function: how often, the median, the least and the most."""
    gathered: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for each in spent:
        gathered[each.contract][each.function].append(each.gas)
    return {
        contract: {
            name: {"times": len(gas), "median": int(statistics.median(gas)), "least": min(gas), "most": max(gas)}
            for name, gas in sorted(functions.items())
        }
        for contract, functions in sorted(gathered.items())
    }


def never_called(spent: Sequence[Spent]) -> list[str]:
    """What the contracts can do and nobody asked for here: of `open`, `settle` only other contracts may."""
    called = {(each.contract, each.function) for each in spent}
    return [
        f"{contract}.{each['name']}"
        for contract in CONTRACTS
        for each in json.loads((GENERATED / f"{contract}.json").read_text())["abi"]
        if each["type"] == "function"
        and each["stateMutability"] not in ("view", "pure")
        and (contract, each["name"]) not in called
    ]


def beside_snapshot(calls: Sequence[Spent], snapshot: Mapping[str, str]) -> list[dict[str, Any]]:
    """A round's transactions beside what forge counts for the same calls. Raises ValueError where they are others."""
    lines = sorted(name for name in snapshot if name[0].isdigit())
    pairs = list(zip(calls, lines, strict=True))
    for spent, line in pairs:
        if line.split()[1].rstrip(",") != spent.function:
            raise ValueError(f"{spent.function} where the snapshot has {line!r}")
    return [{"call": each.function, "gas": each.gas, "forge": int(snapshot[line])} for each, line in pairs]


# --- what is called -------------------------------------------------------------------------------


async def pass_s(fleet: Fleet, seconds: int) -> None:
    """Time passes on the chain."""
    await fleet.chain.rpc("evm_increaseTime", seconds)
    await fleet.chain.rpc("evm_mine")


async def grant_role(fleet: Fleet, contract: str, role: str, member: Identity) -> None:
    """By the administrator, who is the operator here."""
    calls = fleet.operator.calls
    await calls.send(contract, "grantRole", await calls.call(contract, role), member.address)


async def other_rounds(fleet: Fleet, rounds: Rounds) -> None:
    """Policies, and rounds that end otherwise."""
    await fleet.operator.set_policy(TASK, REPORT)
    await fleet.operator.set_policy(TASK, POLICY)
    closed = await rounds.proposed()
    await rounds.vote(closed)
    await fleet.coordinator.calls.send(QUALITY_VOTES, "close", task_id(TASK), closed)
    await rounds.finalise(closed)
    await fleet.listener.roll_back(TASK, closed, agents=1, report=REPORT)
    await fleet.coordinator.abort(TASK, await rounds.opened(), reason="too few came")


async def stake(fleet: Fleet) -> None:
    """What happens to tokens in an epoch and after it; the lightest validator leaves."""
    calls, last, other = fleet.operator.calls, VALIDATORS[-1].address, fleet.validators[0]
    election = EvmElections(calls)
    await grant_role(fleet, ELECTION, "SCORER_ROLE", OPERATOR)
    await calls.send(ELECTION, "credit", last, 1_000_000)
    await election.fund(20 * TOKEN)
    await election.delegate(last, 450 * TOKEN)
    await election.undelegate(last, 400 * TOKEN)
    for _ in range(2):
        await pass_s(fleet, HOUR_S)
        await election.close_epoch()
    await election.withdraw(FIRST_UNBONDING)
    await calls.send(STAKE_TOKEN, "transfer", VALIDATORS[0].address, TOKEN)
    await calls.send(STAKE_TOKEN, "approve", VALIDATORS[0].address, TOKEN)
    await other.calls.send(STAKE_TOKEN, "transferFrom", OPERATOR.address, VALIDATORS[0].address, TOKEN)
    await fleet.validators[-1].calls.send(ELECTION, "retire")
    await calls.send(ELECTION, "relist", VALIDATORS[0].address, NO_ADDRESS)


async def slash(fleet: Fleet, round_: int) -> None:
    """Three validators sign what they must not, and anybody proves it."""
    calls, domain = fleet.operator.calls, fleet.domain
    task, some, other = task_id(TASK), sha256(b"some"), sha256(b"other")

    def sums(digest: Digest, who: Identity) -> tuple[tuple[object, ...], str]:
        said = SumAttestation(TASK, round_, some, digest, 3, 9)
        return (task, round_, some, digest, 3, 9), attest(said, domain, who).hex()

    def votes(accuracy: int, who: Identity) -> tuple[tuple[object, ...], str]:
        said = ModelAttestation(TASK, round_, 1, some, other, accuracy, 0, approved=True)
        return (task, round_, 1, some, other, accuracy, 0, True), attest(said, domain, who).hex()

    twice, untrue, wrong = VALIDATORS[1:4]
    await calls.send(ELECTION, "slashContradictingSums", *sums(some, twice), *sums(other, twice))
    await calls.send(ELECTION, "slashContradictingVotes", *votes(1, untrue), *votes(2, untrue))
    await calls.send(ELECTION, "slashWrongSum", *sums(other, wrong))


async def trust(fleet: Fleet, round_: int) -> None:
    """A report of ten devices of one owner by four validators."""
    for device in DEVICES:
        await fleet.register(device, Role.AGENT, owner=OWNER.address)
    scores, domain = EvmTrust(fleet.operator.calls), fleet.place.domain("Trust")
    await scores.fund(100 * TOKEN)
    results = tuple(DeviceResult(device.address, 900_000, 100_000) for device in DEVICES)
    signed = [sign_report(results, TASK, round_, domain, who) for who in VALIDATORS[:4]]
    await scores.report(TASK, round_, results, signed)
    await scores.claim(OWNER.address)


async def share(fleet: Fleet) -> None:
    """An owner shares its machine's twin, and ends it."""
    notary = Notary(fleet)
    await notary.sharing.assign(RIG, OWNER.address)
    terms = Grant(OWNER.address, CONSUMER.address, topics.twin_state(*RIG), from_ms=0, until_ms=4_000_000_000_000)
    id_, _ = await notary.enter(OWNER, CONSUMER, terms)
    await notary.revoke(OWNER, id_)


async def maintain(fleet: Fleet) -> None:
    """An order from its alert to its verification."""
    await grant_role(fleet, MAINTENANCE, "TECHNICIAN_ROLE", TECHNICIAN)
    await grant_role(fleet, MAINTENANCE, "INSPECTOR_ROLE", INSPECTOR)
    domain, agent, time_s = fleet.place.domain(MAINTENANCE), DEVICES[0], (await fleet.operator.head()).time_s
    alert = sign_alert(agent, domain, site=RIG.site, asset=RIG.name, alert="hot@1", time_s=time_s, report=REPORT)
    order, upkeep = order_of(alert), EvmUpkeep(fleet.operator.calls)
    await upkeep.open_order(alert, agent.address)
    for who, state, send in (
        (TECHNICIAN, OrderState.ACKNOWLEDGED, upkeep.acknowledge),
        (TECHNICIAN, OrderState.DONE, upkeep.complete),
        (INSPECTOR, OrderState.VERIFIED, upkeep.verify),
    ):
        step = Step(who.address, time_s, REPORT)
        await send(order, step, sign_step(who, domain, order, state, step))


async def anchor(fleet: Fleet) -> None:
    """The first root of a log, and the next."""
    calls = fleet.operator.calls
    writer = await calls.call(AUDIT_ANCHORS, "writerRole", log_id(DEPLOYMENT_LOG))
    await calls.send(AUDIT_ANCHORS, "grantRole", writer, LISTENER.address)
    anchors = EvmAnchors(fleet.listener.calls)
    await anchors.anchor(DEPLOYMENT_LOG, first=1, last=10, root=REPORT)
    await anchors.anchor(DEPLOYMENT_LOG, first=11, last=20, root=REPORT)


async def administrate(fleet: Fleet) -> None:
    """The consortium takes over; what it decides waits for its delay. Somebody is suspended."""
    calls, place = fleet.operator.calls, fleet.place
    target, administration = place.contracts[DEVICE_REGISTRY], place.contracts[ADMINISTRATION]
    admin = NO_DIGEST  # DEFAULT_ADMIN_ROLE
    await calls.send(DEVICE_REGISTRY, "grantRole", admin, administration)
    what = load(DEVICE_REGISTRY).functions["grantRole"].encode(admin, VALIDATORS[0].address).hex()
    for salt, decided in ((NO_DIGEST, True), (REPORT, False)):
        call = (target, 0, what, NO_DIGEST, salt)
        await calls.send(ADMINISTRATION, "schedule", *call, HOUR_S)
        if decided:
            await pass_s(fleet, HOUR_S)
            await calls.send(ADMINISTRATION, "execute", *call)
        else:
            await calls.send(ADMINISTRATION, "cancel", await calls.call(ADMINISTRATION, "hashOperation", *call))
    await calls.send(DEVICE_REGISTRY, "revokeRole", admin, VALIDATORS[0].address)
    await fleet.operator.suspend(DEVICES[-1].address)
    await calls.send(DEVICE_REGISTRY, "renounceRole", admin, OPERATOR.address)


async def measure(folder: Path, number: int) -> dict[str, Any]:
    """All figures; `number` whole rounds."""
    everybody = (*FUNDED, *(validator.address for validator in VALIDATORS))
    async with (
        running_chain(folder, everybody, "anvil") as chain,
        open_fleet(chain, terms=TERMS, stakes=STAKES, validators=VALIDATORS) as fleet,
    ):
        await fleet.operator.create_task(TASK, **GATE, policy=POLICY)
        rounds = Rounds(fleet, TASK, VALIDATORS)
        await rounds.genesis()
        await rounds.deployed(0)
        ends = [(await fleet.operator.head()).block]
        for _ in range(number):
            await rounds.whole()
            ends.append((await fleet.operator.head()).block)
        await other_rounds(fleet, rounds)
        await trust(fleet, number)
        await share(fleet)
        await maintain(fleet)
        await anchor(fleet)
        await stake(fleet)
        await slash(fleet, number)
        await administrate(fleet)
        spent = await ledger(fleet)
    whole = [[each for each in spent if first < each.block <= last] for first, last in pairwise(ends)]
    snapshot = json.loads(SNAPSHOT.read_text())
    return {
        "validators": len(VALIDATORS),
        "calls": by_call(spent),
        "never_called": never_called(spent),
        "whole_rounds": [sum(each.gas for each in round_) for round_ in whole],
        "whole_round_by_forge": int(snapshot["whole round"]),
        "first_round": beside_snapshot(whole[0], snapshot),
    }
