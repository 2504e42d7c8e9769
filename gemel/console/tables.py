"""What an audit says, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gemel.console.auditor.book import Finding
from gemel.console.auditor.lineage import Ancestor
from gemel.console.auditor.verify import AuditReport, RoundVerdict
from gemel.wire.types import NO_DIGEST, Digest, Ppm


def show_audit(report: AuditReport, console: Console) -> None:
    """How rounds were decided, what held, what nobody checked, and at the end what does not fit."""
    console.print(f"Task {report.task} of fleet {report.fleet}, to block {report.last_block}")
    _show_rounds(report.rounds, console)
    console.print("Held: " + ", ".join(f"{count} {kind}" for kind, count in report.held.items()))
    for line in report.exceptions:
        console.print(f"[bold yellow]{escape(line)}[/]", soft_wrap=True)
    _show_findings("Not kept, so not checked", "yellow", report.not_kept, console)
    console.print("Beyond what kept files can show:")
    for line in report.not_covered:
        console.print(f"  {escape(line)}", soft_wrap=True)
    _show_findings("Does not fit", "red", report.findings, console)
    console.print("[green]All holds.[/]" if report.holds else f"[red]{len(report.findings)} findings.[/]")


def show_lineage(lineage: Sequence[Ancestor], console: Console) -> None:
    """Every approved model, from M0 to the one in use."""
    table = Table("#", "round", "model", "parent", "root", "votes", "median", "block", box=box.SIMPLE)
    for model in lineage:
        table.add_row(
            str(model.deployment),
            str(model.round),
            _short(model.model),
            _short(model.parent),
            _short(model.updates_root),
            f"{model.approvals}/{model.votes}",
            _share(model.accuracy),
            str(model.block),
        )
    console.print(table)


def _show_findings(title: str, colour: str, findings: Sequence[Finding], console: Console) -> None:
    if findings:
        console.print(f"[{colour}]{title}:[/]")
    for finding in findings:
        number = "" if finding.round is None else f"round {finding.round}, "
        device = "" if finding.device is None else f" (device {finding.device})"
        console.print(f"  {number}{escape(finding.where)}: {escape(finding.what)}{device}", soft_wrap=True)


def _show_rounds(rounds: Sequence[RoundVerdict], console: Console) -> None:
    table = Table("round", "state", "verdict", "approvals", "median", "in use", box=box.SIMPLE)
    for line in rounds:
        shares = (_share(line.accuracy), _share(line.baseline)) if line.votes else ("-", "-")
        table.add_row(str(line.round), line.state, line.verdict, f"{line.approvals} of {line.votes}", *shares)
    console.print(table)


def _short(digest: Digest) -> str:
    return "-" if digest == NO_DIGEST else digest[:12]


def _share(accuracy: Ppm) -> str:
    return f"{accuracy / 1_000_000:.3f}"
