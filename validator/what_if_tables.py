"""A comparison of two models, for people."""

from __future__ import annotations

from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table

from gemel.wire.types import Digest, Millis
from validator.what_if import Answer, Comparison, Pair


def show(comparison: Comparison, in_use: Digest, candidate: Digest, console: Console, *, everything: bool) -> None:
    """Where the models differ (with `everything`: all their answers), then how far they agree, head by head."""
    console.print(f"in use     {in_use}\ncandidate  {candidate}", soft_wrap=True)
    _show_answers(comparison, console, everything=everything)
    _show_summary(comparison, console)
    console.print(f"{len(comparison.windows)} windows, {comparison.differing} on which the models differ")
    doubtful = sum(bool(window.filled or window.uncertain) for window in comparison.windows)
    if doubtful:
        console.print(f"{doubtful} of them hold values that were filled in, or that their source calls uncertain")
    if comparison.dropped:
        console.print(f"{comparison.dropped} more were dropped: their gaps are too long to fill")
    if comparison.unmatched:
        console.print(f"{comparison.unmatched} inspections or readings belong to no window")


def _show_answers(comparison: Comparison, console: Console, *, everything: bool) -> None:
    table = Table("window's end (UTC)", "head", "in use", "candidate", "inspected", box=box.SIMPLE)
    for window in comparison.windows:
        for head, pair in window.heads.items():
            if everything or not pair.agree:
                cells = (_said(pair.in_use, pair), _said(pair.candidate, pair))
                table.add_row(_time(window.end_ms), head, *cells, pair.inspected or "-")
    if table.row_count:
        console.print(table)


def _show_summary(comparison: Comparison, console: Console) -> None:
    table = Table("head", "agree", "right: in use", "candidate", "confidence: in use", "candidate", box=box.SIMPLE)
    for name, head in comparison.heads.items():
        right = [
            f"{count} of {head.inspected}" if head.inspected else "-"
            for count in (head.in_use_right, head.candidate_right)
        ]
        confidence = (f"{head.in_use_confidence:.2f}", f"{head.candidate_confidence:.2f}")
        table.add_row(name, f"{head.agree} of {head.windows}", *right, *confidence)
    console.print(table)


def _said(answer: Answer, pair: Pair) -> str:
    text = f"{answer.condition} {answer.confidence:.2f}"
    if pair.inspected is None:
        return text
    colour = "green" if answer.condition == pair.inspected else "red"
    return f"[{colour}]{text}[/]"


def _time(time_ms: Millis) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
