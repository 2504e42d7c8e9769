"""`gemel maintenance`: list, show, acknowledge, done, verify."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemel.console.maintenance import OrderLine
    from gemel.wire.upkeep import OrderState

maintenance_app = typer.Typer(help="See maintenance orders, and sign what was done.", no_args_is_help=True)

_Fleet = Annotated[Path, typer.Argument(metavar="DIR", help="A founded fleet: its chain.json names the node.")]
_Order = Annotated[str, typer.Argument(metavar="ORDER", help="The order's id, or its first digits.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_Key = Annotated[Path, typer.Option("--key", metavar="FILE", help="The key file of whoever signs the step.")]
_Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="What was found or done: its SHA-256 is signed.")
]
_SubmitWith = Annotated[
    Path | None,
    typer.Option("--submit-with", metavar="FILE", help="A key file whose account pays; without it, the signer's."),
]


@maintenance_app.command("list")
def list_(
    directory: _Fleet,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Without those that are verified.")] = False,
    json: _Json = False,
) -> None:
    """List the orders, oldest first."""
    from gemel.console import maintenance

    _show(asyncio.run(maintenance.list_orders(directory, unfinished=unfinished)), json=json)


@maintenance_app.command("show")
def show(directory: _Fleet, order: _Order, json: _Json = False) -> None:
    """Show one order with its steps."""
    from gemel.console import maintenance

    _show(asyncio.run(maintenance.show_order(directory, order)), json=json)


@maintenance_app.command("acknowledge")
def acknowledge(
    directory: _Fleet, order: _Order, key: _Key, report: _Report = None, submit_with: _SubmitWith = None
) -> None:
    """Say, as a technician, that you have seen an order."""
    from gemel.wire.upkeep import OrderState

    _advance(directory, order, OrderState.ACKNOWLEDGED, key, report, submit_with)


@maintenance_app.command("done")
def done(
    directory: _Fleet, order: _Order, key: _Key, report: _Report = None, submit_with: _SubmitWith = None
) -> None:
    """Say, as a technician, that the work is done."""
    from gemel.wire.upkeep import OrderState

    _advance(directory, order, OrderState.DONE, key, report, submit_with)


@maintenance_app.command("verify")
def verify(
    directory: _Fleet, order: _Order, key: _Key, report: _Report = None, submit_with: _SubmitWith = None
) -> None:
    """Say, as an inspector, that another's work is good."""
    from gemel.wire.upkeep import OrderState

    _advance(directory, order, OrderState.VERIFIED, key, report, submit_with)


def _advance(
    directory: Path, order: str, state: OrderState, key: Path, report: Path | None, submit_with: Path | None
) -> None:
    from gemel.adapters import key_files
    from gemel.console import maintenance

    signer = key_files.load(key).identity
    submitter = signer if submit_with is None else key_files.load(submit_with).identity
    line, sent = asyncio.run(maintenance.advance(directory, order, state, signer, submitter, report))
    typer.echo(f"{line.order}: {line.state}, transaction {sent.transaction} in block {sent.block}")


def _show(what: Sequence[OrderLine] | OrderLine, *, json: bool) -> None:
    import msgspec
    from rich.console import Console

    from gemel.console import maintenance

    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(what), indent=2))
    elif isinstance(what, maintenance.OrderLine):
        maintenance.print_order(what, Console())
    else:
        maintenance.print_orders(what, Console())
