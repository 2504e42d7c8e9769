"""Deals the rig's cycles to the plant: history and live feeds to gateways, reference sets to those who measure."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemel.demo.plan import LIVE_CYCLES, VALIDATORS, DemoPlan, Layout, rig_of
from gemel.demo.replay import CYCLE_S, Feed
from gemel.demo.rig import read_cycles
from gemel.learning.measuring import save_windows
from gemel.learning.splits import Rows, Shares, split_cycles
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import task


@dataclass(frozen=True, slots=True)
class Deal:
    """What everybody got. Only the report may look at all of it."""

    gateways: dict[str, Windows]
    report: Windows
    validation: Windows
    feeds: tuple[Feed, ...]
    histories: dict[str, Path]  # agent → folder of its historian's export
    poisoner: str | None  # the gateway that poisons one update: the one whose word weighs most


def deal(plan: DemoPlan, layout: Layout, now_ms: int) -> Deal:
    """Split the cycles by the plan's seed and write what each party is started with.

    In rig time every gateway's last live cycle ends about now, so that no reading is ahead of anybody's clock.
    """
    cycles = read_cycles()
    split = split_cycles(cycles.labels, plan.seed, Shares(gateways=plan.agents, validators=VALIDATORS))
    layout.data.mkdir(parents=True, exist_ok=True)
    save_windows(layout.data / "reference-coordinator.npz", cycles.take(split.coordinator))
    for number, rows in enumerate(split.validators, start=1):
        save_windows(layout.data / f"reference-validator-{number}.npz", cycles.take(rows))
    feeds, histories = [], {}
    for name, rows in zip(plan.agent_names, split.gateways, strict=True):
        live = len(rows) if plan.live_only else min(LIVE_CYCLES, len(rows))
        start_ms = now_ms - len(rows) * CYCLE_S * 1000
        past, coming = rows[: len(rows) - live], rows[len(rows) - live :]
        live_start_ms = start_ms + len(past) * CYCLE_S * 1000
        feeds.append(Feed(rig_of(name), tuple(int(row) for row in coming), live_start_ms))
        if len(past):
            histories[name] = layout.data / f"history-{name}"
            _write_history(histories[name], cycles, past, start_ms)
    gateways = {name: cycles.take(rows) for name, rows in zip(plan.agent_names, split.gateways, strict=True)}
    heaviest = max(gateways, key=lambda name: len(gateways[name]))
    return Deal(
        gateways=gateways,
        report=cycles.take(split.report),
        validation=cycles.take(split.validation),
        feeds=tuple(feeds),
        histories=histories,
        poisoner=None if plan.poisoned_round is None else heaviest,
    )


def _write_history(folder: Path, cycles: Windows, rows: Rows, start_ms: int) -> None:
    """As a historian exports it (edge_agent/learning/history.py): one line a second, one line an inspection."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sensors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(column.name for column in task.inputs)])
        for cycle, row in enumerate(rows):
            first_ms = start_ms + cycle * CYCLE_S * 1000
            for second, values in enumerate(np.round(cycles.inputs[row].astype(np.float64), 4)):
                writer.writerow([first_ms + second * 1000, *values])
    with (folder / "inspections.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(head.name for head in task.heads)])
        for cycle, row in enumerate(rows):
            found = [h.classes[int(k)] for h, k in zip(task.heads, cycles.labels[row], strict=True)]
            writer.writerow([start_ms + (cycle + 1) * CYCLE_S * 1000, *found])
