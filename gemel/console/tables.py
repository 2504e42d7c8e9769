"""What an audit says, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gemel.console.auditor.book import Finding
from gemel.console.auditor.verify import AuditReport, RoundVerdict
from gemel.console.report_tables import share


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
        shares = (share(line.accuracy), share(line.baseline)) if line.votes else ("-", "-")
        table.add_row(str(line.round), line.state, line.verdict, f"{line.approvals} of {line.votes}", *shares)
    console.print(table)
