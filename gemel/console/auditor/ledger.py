"""Both contracts replayed in Python: from signed calls to states and events. Pure.

`Ledger.apply` does with a call what contracts/src/DeviceRegistry.sol and RoundRegistry.sol do, and raises DoesNotFit
where they would have reverted. An auditor who holds the signed calls in their order thus needs to believe neither a
node's logs nor its state: he computes what the events must be, and every validator's signature is recovered anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eth_hash.auto import keccak
from msgspec.structs import replace

from gemel.adapters.chain_export import Call
from gemel.console.auditor.book import DoesNotFit, require
from gemel.console.auditor.gate import Verdict, judge
from gemel.ports import PartyRecord, Role, RoundRecord, RoundState, TaskRecord
from gemel.wire.attestations import ModelAttestation, SumAttestation, Vote
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.identity import recover
from gemel.wire.types import NO_ADDRESS, NO_DIGEST, Address, Count, Digest

PPM = 1_000_000
ADMIN_ROLE: Digest = NO_DIGEST  # OpenZeppelin's DEFAULT_ADMIN_ROLE: may hand roles on
OPERATOR_ROLE: Digest = bytes(keccak(b"OPERATOR_ROLE")).hex()

Event = tuple[str, dict[str, object]]  # name and values, as gemel.adapters.contract_abi.decode_event gives them

_EMPTY = RoundRecord(
    state=RoundState.NONE,
    base=NO_DIGEST,
    policy=NO_DIGEST,
    roster_root=NO_DIGEST,
    updates_root=NO_DIGEST,
    sum_digest=NO_DIGEST,
    owners=0,
    weight=0,
    opened=NO_DIGEST,
    model=NO_DIGEST,
    explanation=NO_DIGEST,
    deployment=0,
    accuracy=0,
    baseline=0,
)
_FINAL = frozenset({RoundState.REJECTED, RoundState.DEPLOYED, RoundState.ROLLED_BACK, RoundState.ABORTED})


@dataclass(slots=True)
class RoundLine:
    """A round as the calls made it, with the votes behind it."""

    record: RoundRecord = _EMPTY
    confirmed_by: list[Address] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)
    verdict: Verdict | None = None
    decided_in: tuple[Digest, Count] | None = None  # transaction and block of the verdict


@dataclass(slots=True)
class TaskLine:
    """A task, its rounds by number, and in which round each approved model came to be."""

    name: str
    record: TaskRecord
    rounds: dict[int, RoundLine] = field(default_factory=dict)
    approved: dict[Digest, int] = field(default_factory=dict)


class Ledger:
    """What the contracts must hold after the calls applied so far."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.rights: set[tuple[Digest, Address]] = set()  # AccessControl's roles: of operators, not of parties
        self.parties: dict[Address, PartyRecord] = {}
        self.tasks: dict[Digest, TaskLine] = {}
        self._functions: Mapping[str, Callable[[Call, Mapping[str, Any]], list[Event]]] = {
            "grantRole": self._grant_role,
            "revokeRole": self._revoke_role,
            "renounceRole": self._renounce_role,
            "register": self._register,
            "suspend": self._suspend,
            "createTask": self._create_task,
            "proposeGenesis": self._propose_genesis,
            "openRound": self._open_round,
            "closeList": self._close_list,
            "proposeSum": self._propose_sum,
            "attestSum": self._attest_sum,
            "recordOpening": self._record_opening,
            "proposeCandidate": self._propose_candidate,
            "attestModel": self._attest_model,
            "finalise": self._finalise,
            "recordDeployed": self._record_deployed,
            "abort": self._abort,
        }

    def found(self, operator: Address, deployer: Address) -> list[Event]:
        """The device registry's constructor."""
        rights = (ADMIN_ROLE, OPERATOR_ROLE)
        self.rights |= {(right, operator) for right in rights}
        return [("RoleGranted", {"role": right, "account": operator, "sender": deployer}) for right in rights]

    def apply(self, call: Call) -> list[Event]:
        """The events of a call. Raises DoesNotFit, and Refused for a signature that does not hold."""
        function = self._functions.get(call.function)
        if function is None:
            raise DoesNotFit(f"calls {call.function}, which this auditor does not replay")
        return function(call, call.arguments)

    # --- device registry ------------------------------------------------------------------------

    def _grant_role(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_right(call, ADMIN_ROLE)
        self.rights.add((a["role"], a["account"]))
        return [("RoleGranted", {**a, "sender": call.sender})]

    def _revoke_role(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_right(call, ADMIN_ROLE)
        self.rights.discard((a["role"], a["account"]))
        return [("RoleRevoked", {**a, "sender": call.sender})]

    def _renounce_role(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        require(a["callerConfirmation"] == call.sender, "renounces another's role")
        self.rights.discard((a["role"], call.sender))
        return [("RoleRevoked", {"role": a["role"], "account": call.sender, "sender": call.sender})]

    def _register(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_right(call, OPERATOR_ROLE)
        account, owner, role, box = (a[key] for key in ("account", "owner", "role", "box"))
        require(NO_ADDRESS not in (account, owner), "registers the zero address")
        require(Role.NONE < role <= max(Role), f"registers {account} without a role")
        require(account not in self.parties, f"registers {account} a second time")
        self.parties[account] = PartyRecord(account, owner, Role(role), box, active=True)
        return [("PartyRegistered", {"account": account, "owner": owner, "role": role, "box": box})]

    def _suspend(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_right(call, OPERATOR_ROLE)
        account = a["account"]
        require(account in self.parties and self.parties[account].active, f"suspends {account}, who is not active")
        self.parties[account] = replace(self.parties[account], active=False)
        return [("PartySuspended", {"account": account})]

    # --- rounds ---------------------------------------------------------------------------------

    def _create_task(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_right(call, OPERATOR_ROLE)
        identifier = task_id(a["name"])
        require(identifier not in self.tasks, f"creates the task {a['name']} a second time")
        in_range = a["threshold"] <= PPM and a["maxRegression"] <= PPM and a["minimumOwners"] > 0 and a["quorum"] > 0
        require(in_range, f"creates the task {a['name']} with a gate out of range")
        record = TaskRecord(
            threshold=a["threshold"],
            max_regression=a["maxRegression"],
            minimum_owners=a["minimumOwners"],
            quorum=a["quorum"],
            last_round=0,
            deployment=0,
            model=NO_DIGEST,
        )
        self.tasks[identifier] = TaskLine(a["name"], record)
        return [("TaskCreated", {"task": identifier, **a})]

    def _propose_genesis(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        task = self._task(a)
        require(0 not in task.rounds, "proposes M0 a second time")
        require(NO_DIGEST not in (a["model"], a["policy"]), "a digest is missing")
        record = replace(_EMPTY, state=RoundState.MEASURED, policy=a["policy"], model=a["model"])
        task.rounds[0] = RoundLine(record)
        opened = {"task": a["task_"], "round": 0, "base": NO_DIGEST, "policy": a["policy"]}
        proposed = {"task": a["task_"], "round": 0, "parent": NO_DIGEST, "model": a["model"]}
        return [("RoundOpened", opened), ("CandidateProposed", proposed | {"explanation": NO_DIGEST, "accuracy": 0})]

    def _open_round(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        task = self._task(a)
        last = task.record.last_round
        require(a["round_"] == last + 1, f"opens round {a['round_']} after round {last}")
        require(last in task.rounds and task.rounds[last].record.state in _FINAL, f"round {last} was not final yet")
        require(NO_DIGEST not in (a["base"], a["policy"]), "a digest is missing")
        require(a["base"] == task.record.model, "opens a round from another model than the one in use")
        task.record = replace(task.record, last_round=a["round_"])
        record = replace(_EMPTY, state=RoundState.OPEN, base=a["base"], policy=a["policy"])
        task.rounds[a["round_"]] = RoundLine(record)
        return [("RoundOpened", _values(a, "base", "policy"))]

    def _close_list(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        line = self._line(a, RoundState.OPEN)
        require(a["root"] != NO_DIGEST, "a digest is missing")
        line.record = replace(line.record, state=RoundState.LISTED, roster_root=a["root"])
        return [("ListClosed", _values(a, "root"))]

    def _propose_sum(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        line = self._line(a, RoundState.LISTED)
        require(NO_DIGEST not in (a["updatesRoot"], a["sumDigest"]), "a digest is missing")
        minimum = self._task(a).record.minimum_owners
        require(a["owners"] >= minimum, f"a sum of {a['owners']} owners, {minimum} needed")
        line.record = replace(
            line.record,
            state=RoundState.AGGREGATED,
            updates_root=a["updatesRoot"],
            sum_digest=a["sumDigest"],
            owners=a["owners"],
            weight=a["weight"],
        )
        return [("SumProposed", _values(a, "updatesRoot", "sumDigest", "owners", "weight"))]

    def _attest_sum(self, _call: Call, a: Mapping[str, Any]) -> list[Event]:
        task, line = self._task(a), self._line(a, RoundState.AGGREGATED, RoundState.CONFIRMED)
        validator, record = self._validator(a), line.record
        require(validator not in line.confirmed_by, f"{validator} confirms the sum a second time")
        attestation = SumAttestation(
            task.name, a["round_"], record.updates_root, record.sum_digest, record.owners, record.weight
        )
        self._require_signature(attestation, validator, a["signature"])
        line.confirmed_by.append(validator)
        events: list[Event] = [("SumAttested", _values(a, "validator", "signature"))]
        if len(line.confirmed_by) == task.record.quorum:
            line.record = replace(record, state=RoundState.CONFIRMED)
            confirmed = {"updatesRoot": record.updates_root, "sumDigest": record.sum_digest}
            counts = {"owners": record.owners, "weight": record.weight}
            events.append(("SumConfirmed", _values(a) | confirmed | counts))
        return events

    def _record_opening(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.CUSTODIAN)
        line = self._line(a, RoundState.CONFIRMED)
        require(a["opened"] != NO_DIGEST, "a digest is missing")
        line.record = replace(line.record, state=RoundState.OPENED, opened=a["opened"])
        return [("SumOpened", _values(a, "opened"))]

    def _propose_candidate(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        line = self._line(a, RoundState.OPENED)
        require(a["model"] != NO_DIGEST, "a digest is missing")
        require(a["accuracy"] <= PPM, "an accuracy above one")
        require(a["model"] not in self._task(a).approved, "proposes a model that was approved before")
        line.record = replace(line.record, state=RoundState.MEASURED, model=a["model"], explanation=a["explanation"])
        parent = {"parent": line.record.base}
        return [("CandidateProposed", _values(a, "model", "explanation", "accuracy") | parent)]

    def _attest_model(self, _call: Call, a: Mapping[str, Any]) -> list[Event]:
        task, line = self._task(a), self._line(a, RoundState.MEASURED)
        validator = self._validator(a)
        require(max(a["accuracy"], a["baseline"]) <= PPM, "an accuracy above one")
        require(all(vote.validator != validator for vote in line.votes), f"{validator} votes a second time")
        attestation = ModelAttestation(
            task=task.name,
            round=a["round_"],
            deployment=task.record.deployment + 1,
            parent=line.record.base,
            model=line.record.model,
            accuracy=a["accuracy"],
            baseline=a["baseline"],
            approved=a["approved"],
        )
        self._require_signature(attestation, validator, a["signature"])
        line.votes.append(Vote(validator, a["accuracy"], a["baseline"], a["approved"], a["signature"]))
        return [("ModelAttested", _values(a, "validator", "accuracy", "baseline", "approved", "signature"))]

    def _finalise(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        task, line = self._task(a), self._line(a, RoundState.MEASURED)
        gate, genesis = task.record, a["round_"] == 0
        require(len(line.votes) >= gate.quorum, f"decided with {len(line.votes)} votes, {gate.quorum} needed")
        approvals = sum(vote.approved for vote in line.votes)
        verdict, accuracy, baseline = judge(
            [vote.accuracy for vote in line.votes],
            [vote.baseline for vote in line.votes],
            approvals,
            quorum=gate.quorum,
            threshold=0 if genesis else gate.threshold,  # M0 is not trained yet, and nothing was before it
            max_regression=PPM if genesis else gate.max_regression,
        )
        line.verdict, line.decided_in = verdict, (call.transaction, call.block)
        line.record = replace(line.record, accuracy=accuracy, baseline=baseline)
        said = _values(a) | {"model": line.record.model, "accuracy": accuracy, "baseline": baseline}
        if verdict is not Verdict.APPROVED:
            line.record = replace(line.record, state=RoundState.REJECTED)
            return [("RoundRejected", said | {"approvals": approvals, "reason": int(verdict)})]
        deployment = gate.deployment + 1
        line.record = replace(line.record, state=RoundState.APPROVED, deployment=deployment)
        task.record = replace(gate, deployment=deployment, model=line.record.model)
        task.approved[line.record.model] = a["round_"]
        return [("RoundApproved", said | {"deployment": deployment, "parent": line.record.base})]

    def _record_deployed(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.LISTENER)
        line = self._line(a, RoundState.APPROVED)
        line.record = replace(line.record, state=RoundState.DEPLOYED)
        model = {"deployment": line.record.deployment, "model": line.record.model}
        return [("RoundDeployed", _values(a, "agents") | model)]

    def _abort(self, call: Call, a: Mapping[str, Any]) -> list[Event]:
        self._require_role(call.sender, Role.COORDINATOR)
        states = [state for state in RoundState if RoundState.OPEN <= state <= RoundState.MEASURED]
        line = self._line(a, *states)
        line.record = replace(line.record, state=RoundState.ABORTED)
        return [("RoundAborted", _values(a, "reason"))]

    # --- what several calls demand ----------------------------------------------------------------

    def _require_right(self, call: Call, right: Digest) -> None:
        require((right, call.sender) in self.rights, f"{call.sender} was no operator at that time")

    def _require_role(self, account: Address, role: Role) -> None:
        party = self.parties.get(account)
        active = party is not None and party.active and party.role == role
        require(active, f"{account} was no active {role.name.lower()} at that time")

    def _validator(self, a: Mapping[str, Any]) -> Address:
        validator: Address = a["validator"]
        self._require_role(validator, Role.VALIDATOR)
        return validator

    def _require_signature(
        self, attestation: SumAttestation | ModelAttestation, validator: Address, signature: str
    ) -> None:
        signer = recover(attestation.hash(self._domain), bytes.fromhex(signature))
        require(signer == validator, f"the attestation of {validator} was signed by {signer}, or says something else")

    def _task(self, a: Mapping[str, Any]) -> TaskLine:
        task = self.tasks.get(a["task_"])
        if task is None:
            raise DoesNotFit("there is no such task")
        return task

    def _line(self, a: Mapping[str, Any], *states: RoundState) -> RoundLine:
        line = self._task(a).rounds.get(a["round_"], RoundLine())
        require(line.record.state in states, f"round {a['round_']} was {line.record.state.name.lower()} at that time")
        return line


def _values(a: Mapping[str, Any], *names: str) -> dict[str, object]:
    """An event's task and round, and those of the call's arguments that it repeats."""
    return {"task": a["task_"], "round": a["round_"], **{name: a[name] for name in names}}
