"""Grants of twins and owners of machines on any EVM chain: `gemel.ports.sharing.Sharing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemel.adapters.contract_abi import ASSET_REGISTRY, DATA_SHARING, decode_event
from gemel.adapters.contract_calls import ContractCalls
from gemel.adapters.evm_node import Log, NodeRefused
from gemel.errors import ChainUnavailable, Malformed
from gemel.ports import GrantRecord, Sent
from gemel.wire.sharing import SECOND_MS, Asset, Grant, seconds
from gemel.wire.types import Address, Count, Digest, Millis, Signature

_PAGE = 200  # grants in one answer
_REPLACEABLE = 64  # blocks that a reorganisation may replace: what they say is read anew each time
_LATEST_MS = 2**53


class EvmSharing:
    """Over an open connection.

    The contract keeps only the ids of machines; their names stand in its log, which is read once from the fleet's
    first block on and then from where it was left.
    """

    def __init__(self, calls: ContractCalls) -> None:
        self._calls = calls
        self._next_block = calls.place.first_block
        self._settled: dict[Asset, Address] = {}  # owners as of the block before

    async def assign(self, asset: Asset, owner: Address) -> Sent:
        """See `Sharing`."""
        return await self._calls.send(ASSET_REGISTRY, "assign", *asset, owner)

    async def grant(
        self, grant: Grant, nonce: Count, owner_signature: Signature, consumer_signature: Signature
    ) -> Sent:
        """See `Sharing`."""
        times = seconds(grant.from_ms), seconds(grant.until_ms)
        terms = (grant.owner, grant.consumer, grant.scope, *times, nonce)
        return await self._calls.send(DATA_SHARING, "grant", terms, owner_signature, consumer_signature)

    async def revoke(self, id_: Digest, owner_signature: Signature) -> Sent:
        """See `Sharing`."""
        return await self._calls.send(DATA_SHARING, "revoke", id_, owner_signature)

    async def grants(self) -> Sequence[GrantRecord]:
        """See `Sharing`."""
        block = (await self._calls.node.head()).number
        found: list[GrantRecord] = []
        while True:
            at = (len(found), _PAGE)
            ids: list[Digest] = await self._calls.call(DATA_SHARING, "ids", *at, block=block)
            records = await self._calls.call(DATA_SHARING, "records", *at, block=block)
            if len(ids) != len(records):
                raise ChainUnavailable(f"the node at {self._calls.node.rpc_url} answers other grants each time")
            found += map(_record, ids, records)
            if len(ids) < _PAGE:
                return found

    async def owners(self) -> Mapping[Asset, Address]:
        """See `Sharing`."""
        head = (await self._calls.node.head()).number
        owners = dict(self._settled)
        for log in await self._logs(self._next_block, head):
            asset, owner = self._assigned(log)
            owners[asset] = owner
            if self._next_block <= log.block <= head - _REPLACEABLE:  # another call may have got further meanwhile
                self._settled[asset] = owner
        self._next_block = max(self._next_block, head - _REPLACEABLE + 1)
        return owners

    async def _logs(self, first: int, last: int) -> list[Log]:
        """The asset registry's, in halves where the node finds a range too wide."""
        if first > last:
            return []
        try:
            return await self._calls.node.logs([self._calls.place.contracts[ASSET_REGISTRY]], first, last)
        except NodeRefused:
            if first == last:
                raise
        middle = (first + last) // 2
        return [*await self._logs(first, middle), *await self._logs(middle + 1, last)]

    def _assigned(self, log: Log) -> tuple[Asset, Address]:
        try:
            event = decode_event(ASSET_REGISTRY, log.topics, log.data)
        except Malformed as error:
            raise ChainUnavailable(
                f"the node at {self._calls.node.rpc_url} has a log that is none: {error}"
            ) from error
        if event is None:
            raise ChainUnavailable(f"the node at {self._calls.node.rpc_url} has a log that is not the contract's")
        _, values = event
        return Asset(str(values["site"]), str(values["name"])), str(values["owner"])


def _record(id_: Digest, found: dict[str, Any]) -> GrantRecord:
    terms, revoked_s = found["grant"], found["revokedAt"]
    times = _milliseconds(terms["from"]), _milliseconds(terms["until"])
    grant = Grant(terms["owner"], terms["consumer"], terms["scope"], *times)
    return GrantRecord(id_, grant, _milliseconds(revoked_s) if revoked_s else None)


def _milliseconds(at_s: int) -> Millis:
    return min(at_s * SECOND_MS, _LATEST_MS)
