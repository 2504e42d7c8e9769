"""How soon after its block a grant opens at the broker, and how soon after its block a revocation shuts.

anvil, mosquitto with TLS and its security plugin, the chain listener as a process with its defaults. For each grant
two consumers and two figures:

    newcomer   the broker did not know it, and ends its link once: until it has the retained twin, link made again
    standing   it has another grant, and its link stands: until it has the next word that the gateway says

A revocation is shut once the last word has come that was said before; the gateway says one every `every_ms`.
Times count from when the receipt is seen here, at most 5 ms after the block. Needs anvil (npm ci in contracts/) and
mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gemel.host.logs import configure_logs
from gemel.wire import topics
from gemel.wire.identity import Identity
from tests.support.consumers import Consumer
from tests.support.parties import identity
from tests.support.ruled_plant import EVENT_2, OWNER, RIG_1, Plant, grant, ruled_plant

GRANTS, SEED, EVERY_MS = 50, 1, 5
STATE = topics.twin_state(*RIG_1)
LISTENER_EVERY_S = 60.0  # its default
SHUT_S = 1.5  # after which nothing more is waited for; the figures must stay below
WAIT_S = 20.0


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """p50, p99 (of 50 the largest but for rounding) and the largest, ms."""
    ordered = statistics.quantiles(values_ms, n=100, method="inclusive")
    return {"p50_ms": round(ordered[49], 1), "p99_ms": round(ordered[98], 1), "max_ms": round(max(values_ms), 1)}


@asynccontextmanager
async def saying(plant: Plant) -> AsyncIterator[None]:
    """The gateway says the machine's twin again and again while the block runs."""

    async def say() -> None:
        while True:
            await plant.gateway.publish(STATE, b"twin", retain=True)
            await asyncio.sleep(EVERY_MS / 1000)

    work = asyncio.create_task(say())
    try:
        yield
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def opened(plant: Plant, consumer: Identity, ear: Consumer, nonce: int) -> tuple[str, float]:
    """Enter a grant: its id, and ms from its block to the first word."""
    ear.drain()
    id_, _ = await plant.notary.enter(OWNER, consumer, grant(consumer, STATE), nonce)
    block_s = time.monotonic()
    async with asyncio.timeout(WAIT_S):
        while (heard := await ear.next()).topic != STATE:
            pass
    return id_, max(0.0, heard.at_s - block_s) * 1000


async def shut(plant: Plant, id_: str, ear: Consumer) -> float:
    """Revoke it: ms from its block to the last word that came."""
    await plant.notary.revoke(OWNER, id_)
    block_s = time.monotonic()
    await asyncio.sleep(SHUT_S)
    after = [heard.at_s for heard in ear.drain() if heard.topic == STATE]
    last_ms = (max(after, default=block_s) - block_s) * 1000
    if last_ms > SHUT_S * 1000 - 200:
        raise SystemExit(f"not shut {last_ms:.0f} ms after the block")
    return max(0.0, last_ms)


async def measure(folder: Path, number: int, seed: int) -> dict[str, Any]:
    """All figures."""
    consumers = [identity(1000 * seed + n) for n in range(number + 1)]
    newcomers, regular = consumers[:-1], consumers[-1]
    figures: dict[str, list[float]] = {"newcomer": [], "standing": [], "shut": []}
    async with ruled_plant(folder, "anvil", consumers, every_s=LISTENER_EVERY_S) as plant:
        await plant.notary.enter(OWNER, regular, grant(regular, EVENT_2))
        await plant.mended(f"missing: {regular.address}")
        async with plant.consuming(regular, STATE) as standing, saying(plant):
            for n, newcomer in enumerate(newcomers):
                async with plant.consuming(newcomer, STATE) as ear:
                    id_, first_ms = await opened(plant, newcomer, ear, n)
                other, live_ms = await opened(plant, regular, standing, n)
                figures["newcomer"].append(first_ms)
                figures["standing"].append(live_ms)
                figures["shut"].append(await shut(plant, other, standing))
                await plant.notary.revoke(OWNER, id_)
                print(f"grant {n + 1} of {number}: {first_ms:.0f}, {live_ms:.0f} ms open", file=sys.stderr)
    return {
        "block_to_open_newcomer": percentiles(figures["newcomer"]),
        "block_to_open_standing": percentiles(figures["standing"]),
        "block_to_shut": percentiles(figures["shut"]),
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--grants", type=int, default=GRANTS)
    parser.add_argument("--seed", type=int, default=SEED, help="of the consumers' keys")
    chosen = parser.parse_args()
    configure_logs("benchmark", "console", "error")  # on stderr
    with TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), chosen.grants, chosen.seed))
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    parameters = {"grants": chosen.grants, "every_ms": EVERY_MS, "seed": chosen.seed}
    print(json.dumps(parameters | figures | {"machine": machine}, indent=None if chosen.json else 2))


if __name__ == "__main__":
    main()
