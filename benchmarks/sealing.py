"""What sealing costs, beside NVFlare's defaults and plain numpy: `python -m benchmarks.sealing --json`.

One JSON object: a row for each scheme, model size and number of contributors (`costs`); what a coordinator's summer
needs (`memory`); what becomes of mutated frames (`frames`); and the figures that sealing is held to, each with what
was measured and whether it holds. In full about ten minutes on one core; `--parts` takes some of it, and
`--parts costs --sizes 50000x10` takes seconds. `--accuracy` is a run of its own: what rounding costs a model, on two
tasks, in half an hour on two cores (`--workers 2`).

Everything is measured in one process, in turn, on the same updates. Times are medians; a ratio within one run says
more than a time. Bytes count all that travels for one agent and round: the signed header, the sealed body, whatever
goes to custodians, and the round's public context, which each agent fetches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np

from benchmarks import digits, hydraulic
from benchmarks.claims import claims
from benchmarks.memory import memory_row
from benchmarks.rounding import Trial, compare
from benchmarks.schemes import KeyHeld, NVFlare, OneTime, Scheme, Size, update_of
from gemel.errors import ConfigError
from gemel.wire.messages import MOST_LEVELS
from gemel.wire.tensors import Vector
from tests.support.mutations import KINDS, SIGNED

DEFAULT_SIZES = ("500000x10", "50000x10", "5000000x10", "500000x2", "500000x100", "50000x1000")
PLAIN_SAMPLES = 9  # numpy is quick: enough repetitions for a median
NVFLARE_SAMPLES = 3  # seconds each
MUTATIONS, MUTATION_SEED = 10_000, 17
MEMORY_ROWS = (("bfv-packed", 4), ("bfv-packed", 8), ("one-time-keys", 4), ("one-time-keys", 8), ("ckks", 8))
PARTS = ("costs", "memory", "frames", "accuracy")

T = TypeVar("T")


def timed(action: Callable[[], T], times_ms: list[float]) -> T:
    """Run `action`, and note how long it took."""
    began = time.perf_counter()
    result = action()
    times_ms.append(1000 * (time.perf_counter() - began))
    return result


def measure(scheme: Scheme, size: Size, agents: int) -> dict[str, Any]:
    """One row. `agents` take part, each with an update of its own; nothing but the sum is kept."""
    seal_ms: list[float] = []
    add_ms: list[float] = []
    open_ms: list[float] = []
    due = np.zeros(size.parameters)  # integers below 2^53 are exact in it
    body_bytes = beside_bytes = 0
    for agent in range(agents):
        update = update_of(agent, size.parameters)
        sent = timed(partial(scheme.seal, agent, update), seal_ms)
        due = due + scheme.expected(sent, update)
        timed(partial(scheme.add, sent), add_ms)
        body_bytes, beside_bytes = len(sent.body), sent.beside_bytes
    opened = timed(partial(scheme.open, agents), open_ms)
    error = float(np.abs(opened - due).max())
    every_byte = body_bytes + beside_bytes + scheme.fetched_bytes
    return {
        "scheme": scheme.name,
        "bits": scheme.bits,
        "levels": scheme.levels,
        "parameters": size.parameters,
        "contributors": size.contributors,
        "body_bytes": body_bytes,
        "beside_bytes": beside_bytes,
        "fetched_bytes": scheme.fetched_bytes,
        "bytes_per_parameter": round(every_byte / size.parameters, 4),
        "seal_ms": round(statistics.median(seal_ms), 3),
        "add_ms": round(statistics.median(add_ms[1:] or add_ms), 3),  # the first add only stores
        "open_ms": round(open_ms[0], 3),
        "exact": error == 0.0,
        "max_error": error,  # of ours in steps of an opened sum, of NVFlare's in the update's unit
    }


def plain_row(size: Size) -> dict[str, Any]:
    """numpy's FedAvg in the open: multiply by the weight, add."""
    total = np.zeros(size.parameters, np.float32)
    scaled = np.empty_like(total)
    add_ms: list[float] = []

    def add(update: Vector) -> None:
        np.multiply(update, np.float32(0.37), out=scaled)
        np.add(total, scaled, out=total)

    for agent in range(PLAIN_SAMPLES + 1):
        update = update_of(agent, size.parameters)  # another one each time, as a coordinator gets them
        timed(partial(add, update), add_ms)
    return {
        "scheme": "numpy-fedavg",
        "bits": 32,
        "parameters": size.parameters,
        "contributors": size.contributors,
        "bytes_per_parameter": 4.0,
        "add_ms": round(statistics.median(add_ms[1:]), 4),
    }


def schemes(size: Size) -> Iterator[Callable[[], Scheme]]:
    """What is measured at a size, each made only when its turn comes."""
    for bits in (4, 8):
        yield partial(KeyHeld, "bfv-packed", size, bits)
        yield partial(OneTime, size, bits)
    yield partial(KeyHeld, "bfv-packed", size, 4, MOST_LEVELS)
    yield partial(KeyHeld, "ckks", size, 8)


def rows_of(size: Size) -> Iterator[dict[str, Any]]:
    """Every scheme at one size."""
    plain = plain_row(size)
    yield plain
    # NVFlare's costs do not depend on how many take part, and a sum of three is enough to time one more.
    row = measure(NVFlare(), size, min(NVFLARE_SAMPLES, size.contributors))
    yield row | {"add_times_numpy": round(row["add_ms"] / plain["add_ms"], 2)}
    for make in schemes(size):
        try:
            row = measure(make(), size, size.contributors)
        except ConfigError as error:
            yield {"parameters": size.parameters, "contributors": size.contributors, "refused": str(error)}
        else:
            yield row | {"add_times_numpy": round(row["add_ms"] / plain["add_ms"], 2)}


# --- mutated frames -----------------------------------------------------------------------------


def mutation_row(kind: str) -> dict[str, Any]:
    """What becomes of mutations of one form, read in a process of its own, which may die."""
    command = [sys.executable, "-m", "tests.support.mutations", kind, str(MUTATIONS), str(MUTATION_SEED)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    died = done.returncode != 0
    refused, others = (0, 0) if died else map(int, done.stdout.split())
    return {
        "form": kind,
        "signed": kind in SIGNED,
        "mutations": MUTATIONS,
        "refused": refused,
        "accepted": others,  # of what is not signed: as another, equally well-formed thing, never as the original
        "crashed": died,
    }


# --- accuracy -----------------------------------------------------------------------------------


TRIALS = {
    "hydraulic": (Trial("hydraulic", hydraulic.ABOUT, hydraulic.federated), hydraulic.POLICY),
    "digits": (Trial("digits", digits.ABOUT, digits.federated), digits.POLICY),
}


def accuracy_rows(tasks: Sequence[str], bits: Sequence[int], seeds: int, workers: int) -> Iterator[dict[str, Any]]:
    """What rounding to so many bits costs each task's model."""
    for name in tasks:
        trial, policy = TRIALS[name]
        policies = [msgspec.structs.replace(policy, bits=each) for each in bits]
        yield from compare(trial, policies, range(seeds), workers)


# --- the command ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line, for programs; otherwise indented")
    parser.add_argument("--sizes", nargs="+", default=DEFAULT_SIZES, help="PARAMETERSxCONTRIBUTORS, some")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3], help="what to measure")
    parser.add_argument("--accuracy", dest="parts", action="store_const", const=PARTS[3:], help="--parts accuracy")
    parser.add_argument("--tasks", nargs="+", choices=TRIALS, default=[*TRIALS], help="of the accuracy")
    parser.add_argument("--bits", nargs="+", type=int, default=[4], help="of the accuracy")
    parser.add_argument("--seeds", type=int, default=10, help="of the accuracy")
    parser.add_argument("--workers", type=int, default=1, help="processes that train")
    options = parser.parse_args(arguments)
    began, out = time.perf_counter(), os.dup(1)
    os.dup2(2, 1)  # TenSEAL writes warnings to standard output, from C++
    result: dict[str, Any] = {
        "benchmark": "sealing",
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
    }
    if "costs" in options.parts:
        result["rows"] = [row for size in options.sizes for row in rows_of(Size.parse(size))]
    if "memory" in options.parts:
        result["memory"] = [memory_row(scheme, bits) for scheme, bits in MEMORY_ROWS]
    if "frames" in options.parts:
        result["frames"] = [mutation_row(kind) for kind in KINDS]
    if "accuracy" in options.parts:
        result["accuracy"] = list(accuracy_rows(options.tasks, options.bits, options.seeds, options.workers))
    result["claims"] = claims(result)
    result["seconds"] = round(time.perf_counter() - began, 1)
    with os.fdopen(out, "w") as stdout:
        print(json.dumps(result, indent=None if options.json else 2), file=stdout)


if __name__ == "__main__":
    main()
