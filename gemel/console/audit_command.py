"""`gemel audit`: what a fleet did, recomputed from kept files and what was signed on its chain. No node is asked.

Exit status 0: done, and all holds; 1: something does not; 2: it cannot be done, and one line on stderr says why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gemel.console import granting_command
from gemel.console.granting_command import FINDINGS

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.console.auditor.source import Source

_Report = TypeVar("_Report")

audit_app = typer.Typer(
    help="Check what a fleet did, from kept files alone, and what its broker lets whom do.", no_args_is_help=True
)
audit_app.command("grants")(granting_command.audit_grants)

_Kept = Annotated[Path, typer.Argument(metavar="DIR", help="The kept state of a fleet (gemel demo --keep DIR).")]
_Chain = Annotated[
    Path, typer.Argument(metavar="DIR", help="A kept fleet, or a chain-export.json alone (gemel export-chain).")
]
_Task = Annotated[str | None, typer.Option("--task", help="Which task; without, the pinned one, or the only one.")]
_Json = Annotated[bool, typer.Option("--json", help="The whole report as JSON.")]


@audit_app.command("verify")
def verify(directory: _Kept, json: _Json = False) -> None:
    """Recompute every digest, sum, Merkle proof, signature and vote, and name what does not fit."""
    from gemel.console.auditor.verify import audit
    from gemel.console.tables import show_audit

    report = audit(directory)
    _say(report, show_audit, json=json)
    if not report.holds:
        raise typer.Exit(FINDINGS)


@audit_app.command("lineage")
def lineage(
    directory: _Chain,
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="The beginning of a digest; without, the model in use.")
    ] = "",
    task: _Task = None,
    json: _Json = False,
) -> None:
    """Show where a model comes from, back to M0, with what decided each; 1 for one that was never approved."""
    from gemel.console.auditor.lineage import report_lineage
    from gemel.console.auditor.source import open_source
    from gemel.console.report_tables import show_lineage

    source = open_source(directory, task)
    report = report_lineage(source, model)
    _say(report, show_lineage, json=json)
    _end(source, directory, holds=report.is_approved)


@audit_app.command("round")
def round_(
    directory: _Chain,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="The round; 0 is M0's.")],
    task: _Task = None,
    json: _Json = False,
) -> None:
    """Show all that the chain says of a round: who said what, why it was decided so, and each transaction."""
    from gemel.console.auditor.round_report import report_round
    from gemel.console.auditor.source import open_source
    from gemel.console.report_tables import show_round

    source = open_source(directory, task)
    _say(report_round(source, number), show_round, json=json)
    _end(source, directory)


@audit_app.command("device")
def device(
    directory: _Chain,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Its beginning is enough.")],
    task: _Task = None,
    json: _Json = False,
) -> None:
    """Show a registered party: by whom and when, its rounds, its score, its owner's rewards, the orders it opened."""
    from gemel.console.auditor.device_report import report_device
    from gemel.console.auditor.source import open_source
    from gemel.console.report_tables import show_device

    source = open_source(directory, task)
    _say(report_device(source, address), show_device, json=json)
    _end(source, directory)


@audit_app.command("orders")
def orders(directory: _Chain, task: _Task = None, json: _Json = False) -> None:
    """Show every maintenance order with its signed steps."""
    from gemel.console.auditor.orders import report_orders
    from gemel.console.auditor.source import open_source
    from gemel.console.report_tables import show_orders

    source = open_source(directory, task)
    _say(report_orders(source.ledger), show_orders, json=json)
    _end(source, directory)


def _say(report: _Report, show: Callable[[_Report, Console], None], *, json: bool) -> None:
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        from rich.console import Console

        show(report, Console())


def _end(source: Source, directory: Path, *, holds: bool = True) -> None:
    """Say where the report stands on what is left of a spoiled export."""
    if source.findings:
        typer.echo(f"{source.findings} findings in the export: gemel audit verify {directory}", err=True)
    if source.findings or not holds:
        raise typer.Exit(FINDINGS)
