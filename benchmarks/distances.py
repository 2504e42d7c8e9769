"""What distances of sealed updates cost: `python -m benchmarks.distances --json`.

Ten agents, eight of whom learn the same thing; one pushes the other way, one is loud. All 45 pairs under encryption,
beside numpy in the open: time, bytes, error, and whether Krum scores those two worst. A minute on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.schemes import CLIP
from benchmarks.sealing import timed
from gemel.sealing.bfv import public_bytes
from gemel.sealing.ckks.context import create_context, load_public
from gemel.sealing.ckks.distances import DistancePlan, distance, krum_scores, open_distance, seal
from gemel.sealing.ckks.plan import CHUNK_BYTES

AGENTS, CORRUPT = 10, (8, 9)
SIZES = (50_000, 500_000)


def updates_of(parameters: int) -> list[np.ndarray]:
    """Ten updates, the last two of attackers."""
    rng = np.random.default_rng(1)
    common = rng.standard_normal(parameters) * 0.01
    updates = [common + rng.standard_normal(parameters) * 0.02 for _ in range(AGENTS)]
    updates[8] = -3 * common + rng.standard_normal(parameters) * 0.02
    updates[9] = rng.standard_normal(parameters) * 0.08
    return [update.astype(np.float32) for update in updates]


def row(parameters: int) -> dict[str, Any]:
    """All pairs at one size."""
    secret, plan = create_context(), DistancePlan(CLIP, parameters)
    public, updates = load_public(public_bytes(secret)), updates_of(parameters)
    clipped = [np.clip(update, -CLIP, CLIP) for update in updates]
    times: dict[str, list[float]] = {"seal": [], "pair": [], "open": [], "numpy": []}
    sealed = [timed(partial(seal, public, plan, update), times["seal"]) for update in updates]
    found, plain = np.zeros((AGENTS, AGENTS)), np.zeros((AGENTS, AGENTS))
    for i, j in combinations(range(AGENTS), 2):
        total = timed(partial(distance, public, plan, sealed[i], sealed[j]), times["pair"])
        found[i, j] = found[j, i] = timed(partial(open_distance, secret, plan, total), times["open"])
        gap = timed(partial(np.subtract, clipped[i], clipped[j], dtype=np.float64), times["numpy"])
        plain[i, j] = plain[j, i] = gap @ gap
    pairs = np.triu_indices(AGENTS, 1)
    worst = np.argsort(krum_scores(found, len(CORRUPT)))[-len(CORRUPT) :]
    return {
        "parameters": parameters,
        "pairs": len(pairs[0]),
        "upload_bytes_per_parameter": round(plan.chunks * CHUNK_BYTES / parameters, 2),
        "seal_ms": round(statistics.median(times["seal"]), 1),
        "pair_ms": round(statistics.median(times["pair"]), 2),
        "all_pairs_s": round(sum(times["pair"]) / 1000, 2),
        "open_ms": round(statistics.median(times["open"]), 2),
        "numpy_subtract_ms": round(statistics.median(times["numpy"]), 3),
        "largest_relative_error": round(float((np.abs(found - plain)[pairs] / plain[pairs]).max()), 4),
        "attackers_score_worst": {int(agent) for agent in worst} == set(CORRUPT),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line, for programs; otherwise indented")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="parameters, some")
    options = parser.parse_args(arguments)
    result = {"benchmark": "distances", "agents": AGENTS, "rows": [row(size) for size in options.sizes]}
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
