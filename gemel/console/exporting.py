"""Keep what the chain says of a fleet, for an audit without a node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gemel.adapters.chain_export import encode_export, export_chain
from gemel.adapters.evm_node import EvmNode
from gemel.console.fleet_files import EXPORT_FILE, read_place


async def write_export(directory: Path) -> Path:
    """Write `chain-export.json` beside the `chain.json` that says where the contracts are; returns its path.

    Raises ConfigError (no such fleet, another chain), ChainUnavailable, Malformed.
    """
    place = read_place(directory)
    async with EvmNode(place.rpc_url) as node:
        await node.require_chain(place.chain_id)
        export = await export_chain(node, place)
    path = directory / EXPORT_FILE
    scratch = path.with_name(path.name + ".new")
    await asyncio.to_thread(scratch.write_bytes, encode_export(export))
    return scratch.replace(path)
