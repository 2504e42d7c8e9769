"""The sealing benchmark at a size that takes seconds: it must run, count everything and find every sum exact."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_small_run_prints_one_json_object_with_a_row_for_every_scheme():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sealing", "--json", "--sizes", "2000x3", "--parts", "costs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["scheme"], row["bits"], row.get("levels")) for row in rows] == [
        ("numpy-fedavg", 32, None),
        ("nvflare-ckks", 32, 1),
        ("bfv-packed", 4, 1),
        ("one-time-keys", 4, 1),
        ("bfv-packed", 8, 1),
        ("one-time-keys", 8, 1),
        ("bfv-packed", 4, 4),
        ("ckks", 8, 1),
    ]
    for row in rows[2:]:
        assert row["exact"] or row["scheme"] == "ckks"
        sent = row["body_bytes"] + row["beside_bytes"] + row["fetched_bytes"]
        assert row["bytes_per_parameter"] == round(sent / 2000, 4)
    assert rows[1]["max_error"] < 1e-6
    assert 0 < rows[-1]["max_error"] < 1  # a step of the opened sum
