"""How exact statistics are that were pooled under encryption: `python -m benchmarks.statistics --json`.

Hydraulic rig, its training windows dealt to 4, 10 and 100 agents. One row for each scheme: the error of mean and
deviation against all windows in one place, in thousandths of the nominal range, the worst input; and what one agent
sends. Seconds on one core. Of a hundred agents each has a fortieth of the policy's cap, which costs resolution.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemel.demo.rig import read_cycles
from gemel.learning.fleet_statistics import LIMIT
from gemel.learning.splits import split_cycles
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import INPUTS, PLAN, statistics
from gemel.sealing.candidate import candidate_model
from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.opener import Opener
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import flatten, from_bytes, to_bytes
from gemel.wire.types import NO_ADDRESS

CAP, BITS, CLIP = 600, 16, 1.0
AGENTS = (4, 10, 100)
SCHEMES = ("bfv-packed", "ckks")
RANGES = np.array([column.high - column.low for column in INPUTS])
MIDDLES = np.array([(column.high + column.low) / 2 for column in INPUTS])


def dealt(agents: int) -> list[Windows]:
    """The rig's training windows in so many parts."""
    cycles = read_cycles()
    rows = np.concatenate(split_cycles(cycles.labels, seed=1).gateways)
    return [cycles.take(part) for part in np.array_split(rows, agents)]


def central(parts: Sequence[Windows]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every input over all windows; readings count as far as LIMIT half ranges."""
    readings = np.concatenate([part.inputs.reshape(-1, len(INPUTS)) for part in parts]).astype(np.float64)
    reach = LIMIT * RANGES / 2
    readings = np.clip(readings, MIDDLES - reach, MIDDLES + reach)
    return readings.mean(axis=0), readings.std(axis=0)


def row(scheme: str, agents: int) -> dict[str, Any]:
    """One round."""
    parts, base = dealt(agents), statistics.initial_model(0)
    policy = SealingPolicy(scheme, BITS, CLIP, agents, CAP)  # type: ignore[arg-type]  # of our own making
    parameters = flatten(base).size
    opener = CkksOpener.create(policy, parameters) if scheme == "ckks" else Opener.create(policy, parameters)
    context = opener.public_context()
    sealer = sealer_of(context, policy, parameters, NO_ADDRESS)
    summer = summer_of(context, policy, parameters)
    body, weight, began = b"", 0, time.perf_counter()
    for part in parts:
        trained = statistics.train(base, part, PLAN, 0, 1)
        own, count = flatten(trained.model), min(trained.samples, CAP)
        body, weight = sealer.seal(own, count, np.zeros_like(own)).body, weight + count
        summer.add(body)
    opened = opener.open(summer.sum(), agents)
    pooled = statistics.pooled(from_bytes(candidate_model(to_bytes(base), opened, policy, weight)))
    seconds = time.perf_counter() - began
    mean, std = central(parts)
    return {
        "scheme": scheme,
        "bits": BITS,
        "agents": agents,
        "figures": parameters,
        "body_bytes": len(body),
        "mean_error_per_mille": _worst([column.mean for column in pooled], mean),
        "std_error_per_mille": _worst([column.std for column in pooled], std),
        "seconds": round(seconds, 3),
    }


def _worst(found: Sequence[float], due: np.ndarray) -> float:
    return round(float((1000 * np.abs(np.array(found) - due) / RANGES).max()), 5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line, for programs; otherwise indented")
    parser.add_argument("--agents", nargs="+", type=int, default=AGENTS, help="how many, some")
    options = parser.parse_args(arguments)
    rows = [row(scheme, agents) for agents in options.agents for scheme in SCHEMES]
    worst = {
        scheme: max(max(r["mean_error_per_mille"], r["std_error_per_mille"]) for r in rows if r["scheme"] == scheme)
        for scheme in SCHEMES
    }
    claims = [
        {"claim": f"{scheme}: within a thousandth of the range", "measured": error / 1000, "holds": error < 1}
        for scheme, error in worst.items()
    ]
    result = {"benchmark": "statistics", "rows": rows, "claims": claims}
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
