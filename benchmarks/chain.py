"""What the chain costs and how fast the bus obeys it: `python -m benchmarks.chain --json`.

    gas           every call of every contract, and whole rounds with five validators (benchmarks/gas.py)
    deployments   from the confirmed block of an approval to the deployment message (benchmarks/deployments.py)
    follower      what is missed or repeated over kills, restarts and reorganisations (benchmarks/follower.py)

All on anvil (npm ci in contracts/); the follower on the embedded chain as well. `claims` says what these figures are
held to, and whether it holds. Also needs mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import deployments, follower, gas
from benchmarks.claims import at_most
from gemel.host.logs import configure_logs

PARTS = ("gas", "deployments", "follower")
MOST_GAS = 1_500_000  # a whole round with five validators
MOST_MS = 1_000.0  # p99, from the confirmed block
ROUNDS, APPROVALS, CONFIRMED, CONFIRMATIONS = 5, 60, 40, 2
QUICK_ROUNDS, QUICK_APPROVALS = 2, 5


def measure(parts: Sequence[str], seed: int, *, quick: bool) -> dict[str, Any]:
    """The figures of these parts, one after the other."""
    found: dict[str, Any] = {}
    for part in parts:
        sys.stderr.write(f"{part} …\n")
        with TemporaryDirectory() as folder:
            found[part] = _measure(part, Path(folder), seed, quick=quick)
    return found


def _measure(part: str, folder: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    if part == "gas":
        return asyncio.run(gas.measure(folder, QUICK_ROUNDS if quick else ROUNDS))
    if part == "deployments":
        numbers = (QUICK_APPROVALS, QUICK_APPROVALS) if quick else (APPROVALS, CONFIRMED)
        return asyncio.run(deployments.measure(folder, *numbers, CONFIRMATIONS, seed))
    return follower.measure(seed, follower.QUICK if quick else follower.Sizes())


def claims(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each figure, as far as this run's parts have measured it. Pure."""
    held = {"gas": _gas, "deployments": _deployments, "follower": _follower}
    return [line for part, lines in held.items() if part in found for line in lines(found[part])]


def _gas(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    name = f"gas of a whole round with {found['validators']} validators, the dearest"
    yield at_most(name, max(found["whole_rounds"]), MOST_GAS)


def _deployments(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in found["event_to_message"]:
        name = f"ms from the confirmed block to the deployment message, p99, confirmations: {row['confirmations']}"
        yield at_most(name, row["p99_ms"], MOST_MS)


def _follower(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for chain in ("anvil", "embedded"):
        row = found[chain]
        chaos = f"{row['events']} events, {row['kills']} kills, {row['node_restarts']} restarts of the node"
        if row["reorganisations"]:
            chaos += f", {row['reorganisations']} reorganisations of depth {row['reorganised_blocks_each']}"
        for what in ("missing", "repeated", "stale"):
            yield at_most(f"follower, {chain}, {chaos}: {what}", row[what], 0)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="some of it")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: about two minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the pauses, and of the follower's chaos")
    chosen = parser.parse_args()
    if not follower.ANVIL.exists():
        raise SystemExit("anvil is absent: `npm ci` in contracts/ installs it")
    configure_logs("benchmark", "console", "error")  # on stderr
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    before = os.getloadavg()[0]
    found = measure(chosen.parts, chosen.seed, quick=chosen.quick)
    load = {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)}
    result = {"seed": chosen.seed, **found, "claims": claims(found), "machine": machine | {"load_1_min": load}}
    print(json.dumps(result, indent=None if chosen.json else 2))


if __name__ == "__main__":
    main()
