"""The contracts on any EVM chain, through one JSON-RPC endpoint: `gemel.ports.Chain`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gemel.adapters.contract_abi import DEVICE_REGISTRY, ROUND_REGISTRY, decode_error, load
from gemel.adapters.event_follower import Follower
from gemel.adapters.evm_node import CallReverted, EvmNode, Patience
from gemel.adapters.evm_transactions import Sender
from gemel.errors import ChainReverted, ChainUnavailable, ConfigError, Malformed
from gemel.ports import ChainEvent, PartyRecord, Role, RoundRecord, RoundState, Sent, TaskRecord
from gemel.wire.eip712 import task_id
from gemel.wire.identity import Identity
from gemel.wire.types import Address, Digest, Ppm, Signature

_PARTIES_PAGE = 200


class EvmChain:
    """One service's view of the contracts. Open it with `async with`; entering checks chain id and contracts.

    Without an identity it only reads. `first_block` (Deployed.block) spares `events` the blocks below it;
    `confirmations` is how many blocks must lie above an event's before it is handed out: 0 where the chain has
    finality (QBFT, the embedded chain), more where blocks may still be replaced.
    """

    def __init__(
        self,
        rpc_url: str,
        device_registry: Address,
        round_registry: Address,
        identity: Identity | None,
        chain_id: int,
        *,
        first_block: int = 0,
        confirmations: int = 0,
        poll_s: float = 0.25,
        patience: Patience | None = None,
    ) -> None:
        self._node = EvmNode(rpc_url, patience)
        self._addresses = {DEVICE_REGISTRY: device_registry, ROUND_REGISTRY: round_registry}
        self._sender = Sender(self._node, identity, chain_id) if identity else None
        self._chain_id = chain_id
        self._follower = Follower(self._node, (device_registry, round_registry), first_block, confirmations, poll_s)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises ConfigError for another chain or a place without a contract, ChainUnavailable."""
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._node)
            await self._node.require_chain(self._chain_id)
            for name, address in self._addresses.items():
                if not await self._node.code(address):
                    raise ConfigError(self._node.rpc_url, name, f"a contract's address; there is none at {address}")
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    # --- writing: what each does, and who may, stands in gemel.ports.Chain ------------------------

    async def create_task(
        self, task: str, *, threshold: Ppm, max_regression: Ppm, minimum_owners: int, quorum: int
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds("createTask", task, threshold, max_regression, minimum_owners, quorum)

    async def register(self, party: PartyRecord) -> Sent:
        """See `Chain`."""
        return await self._send(DEVICE_REGISTRY, "register", party.address, party.owner, int(party.role), party.box)

    async def suspend(self, address: Address) -> Sent:
        """See `Chain`."""
        return await self._send(DEVICE_REGISTRY, "suspend", address)

    async def propose_genesis(self, task: str, *, model: Digest, policy: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeGenesis", task_id(task), model, policy)

    async def open_round(self, task: str, round_: int, *, base: Digest, policy: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("openRound", task_id(task), round_, base, policy)

    async def close_list(self, task: str, round_: int, *, root: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("closeList", task_id(task), round_, root)

    async def propose_sum(
        self, task: str, round_: int, *, updates_root: Digest, sum_digest: Digest, owners: int, weight: int
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeSum", task_id(task), round_, updates_root, sum_digest, owners, weight)

    async def attest_sum(self, task: str, round_: int, *, validator: Address, signature: Signature) -> Sent:
        """See `Chain`."""
        return await self._rounds("attestSum", task_id(task), round_, validator, signature)

    async def record_opening(self, task: str, round_: int, *, opened: Digest) -> Sent:
        """See `Chain`."""
        return await self._rounds("recordOpening", task_id(task), round_, opened)

    async def propose_candidate(
        self, task: str, round_: int, *, model: Digest, explanation: Digest, accuracy: Ppm
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds("proposeCandidate", task_id(task), round_, model, explanation, accuracy)

    async def attest_model(
        self,
        task: str,
        round_: int,
        *,
        validator: Address,
        accuracy: Ppm,
        baseline: Ppm,
        approved: bool,
        signature: Signature,
    ) -> Sent:
        """See `Chain`."""
        return await self._rounds(
            "attestModel", task_id(task), round_, validator, accuracy, baseline, approved, signature
        )

    async def finalise(self, task: str, round_: int) -> Sent:
        """See `Chain`."""
        return await self._rounds("finalise", task_id(task), round_)

    async def record_deployed(self, task: str, round_: int, *, agents: int) -> Sent:
        """See `Chain`."""
        return await self._rounds("recordDeployed", task_id(task), round_, agents)

    async def abort(self, task: str, round_: int, *, reason: str) -> Sent:
        """See `Chain`."""
        return await self._rounds("abort", task_id(task), round_, reason)

    # --- reading --------------------------------------------------------------------------------

    async def task(self, task: str) -> TaskRecord:
        """See `Chain`; a quorum of 0 says that there is no such task."""
        found = await self._call(ROUND_REGISTRY, "task", task_id(task))
        return TaskRecord(
            threshold=found["threshold"],
            max_regression=found["maxRegression"],
            minimum_owners=found["minimumOwners"],
            quorum=found["quorum"],
            last_round=found["lastRound"],
            deployment=found["deployment"],
            model=found["model"],
        )

    async def round(self, task: str, round_: int) -> RoundRecord:
        """See `Chain`; `accuracy` and `baseline` are the validators' medians, 0 until there is a verdict."""
        found = await self._call(ROUND_REGISTRY, "round", task_id(task), round_)
        return RoundRecord(
            state=RoundState(found["state"]),
            base=found["base"],
            policy=found["policy"],
            roster_root=found["rosterRoot"],
            updates_root=found["updatesRoot"],
            sum_digest=found["sumDigest"],
            owners=found["owners"],
            weight=found["weight"],
            opened=found["opened"],
            model=found["model"],
            explanation=found["explanation"],
            deployment=found["deployment"],
            accuracy=found["accuracy"],
            baseline=found["baseline"],
        )

    async def party(self, address: Address) -> PartyRecord:
        """See `Chain`."""
        found = _party(await self._call(DEVICE_REGISTRY, "party", address))
        return (
            found if found.role is not Role.NONE else PartyRecord(address, found.owner, Role.NONE, found.box, False)
        )

    async def parties(self) -> Sequence[PartyRecord]:
        """See `Chain`."""
        found: list[PartyRecord] = []
        while True:
            page = await self._call(DEVICE_REGISTRY, "parties", len(found), _PARTIES_PAGE)
            found.extend(map(_party, page))
            if len(page) < _PARTIES_PAGE:
                return found

    @property
    def lag_blocks(self) -> int:
        """See `Chain`."""
        return self._follower.lag_blocks

    def events(self, checkpoint: Path) -> AsyncIterator[ChainEvent]:
        """See `Chain`; while no node answers it waits instead of raising."""
        return self._follower.events(checkpoint)

    # --- both -----------------------------------------------------------------------------------

    async def _rounds(self, function: str, *arguments: object) -> Sent:
        return await self._send(ROUND_REGISTRY, function, *arguments)

    async def _send(self, contract: str, function: str, *arguments: object) -> Sent:
        assert self._sender is not None, "this chain was opened without an identity, to read only"
        data = load(contract).functions[function].encode(*arguments)
        receipt = await self._sender.send(function, self._addresses[contract], data)
        return Sent(receipt.transaction, receipt.block, receipt.gas)

    async def _call(self, contract: str, function: str, *arguments: object) -> Any:
        entry = load(contract).functions[function]
        try:
            answer = await self._node.call(self._addresses[contract], entry.encode(*arguments))
        except CallReverted as error:
            raise ChainReverted(function, *decode_error(error.data)) from error
        try:
            return entry.decode_result(answer)
        except Malformed as error:
            raise ChainUnavailable(f"the node at {self._node.rpc_url} answers nonsense: {error}") from error


def _party(found: dict[str, Any]) -> PartyRecord:
    return PartyRecord(found["account"], found["owner"], Role(found["role"]), found["box"], found["active"])
