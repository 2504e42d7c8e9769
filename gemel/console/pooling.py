"""The fleet's approved statistics: read off the chain, shown, and kept as what M0 is normalised by."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.file_blobs import FileBlobs
from gemel.console.fleet_files import read_place, read_trust
from gemel.errors import ConfigError
from gemel.learning.fleet_statistics import FleetStatistics, InputStatistics
from gemel.learning.task import load_task
from gemel.wire import tensors

TABLE_HEAD = (
    "| input | unit | mean | deviation | share of readings, by eighths of the nominal range |\n"
    "| --- | --- | --- | --- | --- |"
)


def statistics_task(path: str) -> FleetStatistics:
    """The task at an import path. Raises ConfigError unless it pools statistics."""
    task = load_task(path)
    if not isinstance(task, FleetStatistics):
        raise ConfigError("task", path, "a task that pools statistics")
    return task


async def approved_model(directory: Path, blobs: Path) -> bytes:
    """The model in use of a founded fleet, by the chain's word, from a collector's `blobs`; safetensors.

    Raises ConfigError (no fleet, no model yet, not among the blobs), ChainUnavailable, Refused for changed bytes.
    """
    place, trust = read_place(directory), read_trust(directory)
    async with EvmChain(place, None) as chain:
        record = await chain.task(trust.task)
    if record.deployment == 0:
        raise ConfigError(str(directory), "task", f"an approved model of {trust.task}; there is none yet")
    try:
        return await FileBlobs(blobs).get(record.model)
    except KeyError:
        raise ConfigError(str(blobs), "blobs", f"the approved model {record.model} in this folder") from None


def table(task: FleetStatistics, model: bytes) -> str:
    """Each input in a line. Raises Malformed for another task's model."""
    pooled = task.pooled(tensors.from_bytes(model, task.manifest))
    return "\n".join([TABLE_HEAD, *map(_line, pooled)])


async def keep(path: Path, model: bytes) -> None:
    """Write the statistics. Raises ConfigError where the file cannot be."""
    try:
        await asyncio.to_thread(path.write_bytes, model)
    except OSError as error:
        raise ConfigError(str(path), "out", f"a file that can be written ({error.strerror})") from error


def _line(column: InputStatistics) -> str:
    shares = " ".join(f"{share:.3f}" for share in column.histogram)
    return f"| {column.name} | {column.unit} | {column.mean:.6g} | {column.std:.4g} | {shares} |"
