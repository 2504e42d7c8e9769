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
    assert [(row["scheme"], row["bits"]) for row in rows] == [
        ("numpy-fedavg", 32),
        ("nvflare-ckks", 32),
        ("bfv-packed", 4),
        ("one-time-keys", 4),
        ("bfv-packed", 8),
        ("one-time-keys", 8),
    ]
    for row in rows[2:]:
        assert row["exact"]
        sent = row["body_bytes"] + row["beside_bytes"] + row["fetched_bytes"]
        assert row["bytes_per_parameter"] == round(sent / 2000, 4)
    assert rows[1]["max_error"] < 1e-6
