"""The figures that sealing is held to, each with what a run has measured and whether it holds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PARAMETERS, CONTRIBUTORS = 500_000, 10  # where costs are held
MOST_BYTES = {  # scheme, bits, levels → bytes a parameter, everything counted
    ("bfv-packed", 4, 1): 3.1,
    ("bfv-packed", 4, 4): 5.1,
    ("bfv-packed", 8, 1): 5.1,
    ("one-time-keys", 4, 1): 1.1,
    ("one-time-keys", 8, 1): 1.7,
}
MOST_TIMES_NUMPY = 3  # an addition of one-time keys
LEAST_BELOW_NVFLARE = {"bytes_per_parameter": 15, "add_ms": 8, "seal_ms": 3}  # of the default, times less
MOST_MB_MORE = 64  # with 1000 contributors than with 10
EXACT = {"bfv-packed", "one-time-keys"}


def claims(result: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """A line for each figure, as far as this run's parts have measured it."""
    return [
        *_costs(result.get("rows", [])),
        *_memory(result.get("memory", [])),
        *_frames(result.get("frames", [])),
        *_accuracy(result.get("accuracy", [])),
    ]


def at_most(claim: str, measured: float, limit: float) -> dict[str, Any]:
    """The line of a figure that must not be higher."""
    return {"claim": claim, "measured": round(measured, 3), "at_most": limit, "holds": measured <= limit}


def _at_least(claim: str, measured: float, limit: float) -> dict[str, Any]:
    return {"claim": claim, "measured": round(measured, 3), "at_least": limit, "holds": measured >= limit}


def _costs(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    here = {
        (row["scheme"], row["bits"], row.get("levels", 1)): row
        for row in rows
        if "scheme" in row and (row["parameters"], row["contributors"]) == (PARAMETERS, CONTRIBUTORS)
    }
    for key, limit in MOST_BYTES.items():
        if row := here.get(key):
            name = "{}, {} bits, levels of W_k {}".format(*key)
            yield at_most(f"{name}: bytes a parameter", row["bytes_per_parameter"], limit)
            if key[0] == "one-time-keys":
                yield at_most(f"{name}: add, times numpy", row["add_times_numpy"], MOST_TIMES_NUMPY)
    default, peer = here.get(("bfv-packed", 4, 1)), here.get(("nvflare-ckks", 32, 1))
    if default and peer:
        for field, limit in LEAST_BELOW_NVFLARE.items():
            yield _at_least(f"default against NVFlare: {field}, times less", peer[field] / default[field], limit)
    ours = [row for row in rows if row.get("scheme") in EXACT]
    if ours:
        yield {"claim": "every sum exact", "measured": len(ours), "holds": all(row["exact"] for row in ours)}


def _memory(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if "refused" in row:
            continue
        name = f"{row['scheme']}, {row['bits']} bits: MB more with 1000 contributors than with 10"
        yield at_most(name, row["difference_mb"], MOST_MB_MORE)


def _frames(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["signed"]:
            yield at_most(f"{row['form']}: accepted of {row['mutations']} mutations", row["accepted"], 0)
    if rows:
        yield at_most("forms of which a mutation ended the process", sum(row["crashed"] for row in rows), 0)


def _accuracy(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {
            "claim": f"{row['task']}, {row['bits']} bits: the 95 % interval excludes a loss of one point",
            "measured": row["interval_95"],
            "holds": row["excludes_a_loss_of_one_point"],
        }
