"""The demo's report: `report.json` (its form: schema.py) and a self-contained `report.html`.

kept = load(state_dir, state_dir / "chain-export.json", task="hydraulic")
build(Evidence(..., kept=kept, baselines=baselines.compute(...)))
"""

from __future__ import annotations

from pathlib import Path

from gemel.demo.report.evidence import Evidence

__all__ = ["build"]


def build(evidence: Evidence) -> None:
    """Write `report.json` and `report.html` into `evidence.out_dir`, which is made if it is missing.

    Blocking: seconds of CPU (torch, lime), for a worker process. Whatever of a run is absent is said in the report;
    raises ConfigError for a task that cannot be loaded and OSError where nothing can be written.
    """
    from gemel.demo.report import analysis, page, schema  # noqa: PLC0415  # a supervisor imports this for `load` only

    report = analysis.analyse(evidence)
    evidence.out_dir.mkdir(parents=True, exist_ok=True)
    _write(evidence.out_dir / "report.json", schema.encode(report))
    _write(evidence.out_dir / "report.html", page.render(report).encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a reader never meets half a report."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_bytes(data)
    scratch.replace(path)
