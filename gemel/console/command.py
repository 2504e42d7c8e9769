"""What a person types: `gemel audit`, `gemel found`, `gemel keys`, `gemel export-chain`, `gemel twin`.

Commands import what they need when they run: `gemel --help` shall not wait for a chain client and a sealing library.
Exit status 0: done, or all holds; 1: an audit has findings; 2: it cannot be done, and one line on stderr says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gemel.adapters.key_files import Keys

FINDINGS = 1  # exit status

app = typer.Typer()
audit_app = typer.Typer(help="Check a kept fleet without its chain, broker or services.", no_args_is_help=True)
keys_app = typer.Typer(help="Make key files, and show their public halves.", no_args_is_help=True)
twin_app = typer.Typer(help="Look at twins.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(twin_app, name="twin")

Kept = Annotated[Path, typer.Argument(metavar="DIR", help="The kept state of a fleet (gemel demo --keep DIR).")]


@audit_app.command("verify")
def verify(
    directory: Kept,
    json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
) -> None:
    """Recompute every digest, sum, Merkle proof, signature and vote, and name what does not fit."""
    from gemel.console.auditor.verify import audit

    report = audit(directory)
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        from rich.console import Console

        from gemel.console.tables import show_audit

        show_audit(report, Console())
    if not report.holds:
        raise typer.Exit(FINDINGS)


@audit_app.command("lineage")
def lineage(directory: Kept) -> None:
    """Show every approved model, from M0 to the one in use, with what decided it."""
    from rich.console import Console

    from gemel.console.auditor.verify import audit
    from gemel.console.tables import show_lineage

    report = audit(directory)
    show_lineage(report.lineage, Console())
    if not report.holds:
        typer.echo(f"{len(report.findings)} findings: gemel audit verify {directory}", err=True)
        raise typer.Exit(FINDINGS)


@keys_app.command("create")
def create_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, made with mode 0600.")],
) -> None:
    """Make a party's identity and box secret."""
    from gemel.adapters import key_files

    _show({path.stem: key_files.create(path)})


@keys_app.command("show")
def show_key(path: Annotated[Path, typer.Argument(metavar="FILE", help="A key file.")]) -> None:
    """Show address and box key: what a fleet's operator registers. Secrets are never shown."""
    from gemel.adapters import key_files

    _show({path.stem: key_files.load(path)})


@app.command("found")
def found(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="The fleet's plan, a TOML file.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where keys and pinned files go.")],
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="Make the keys and stop, so that their accounts can be funded first.")
    ] = False,
    funder: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A key file whose account sends the parties what they lack.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds every party must be able to pay for.")] = 100,
) -> None:
    """Found a fleet: keys, both contracts, every party registered, the task and its gate, and the files to pin."""
    from gemel.adapters import key_files
    from gemel.console import founding

    plan = founding.load_plan(plan_path)
    keys = founding.create_keys(directory, plan)
    _show(keys)
    if not keys_only:
        payer = None if funder is None else key_files.load(funder).identity
        trust = asyncio.run(founding.found(directory, plan, keys, funder=payer, rounds=rounds))
        typer.echo(
            f"fleet {trust.fleet}, task {trust.task}: founded on chain {trust.chain_id}, registry {trust.registry}"
        )


@twin_app.command("describe")
def describe(
    site: Annotated[str, typer.Argument(help="Where the machine stands.")],
    asset: Annotated[str, typer.Argument(help="Its name.")],
    broker: Annotated[str, typer.Option(help="The broker's url.")] = "mqtt://127.0.0.1:1883",
    format_: Annotated[
        Literal["td", "aas"],
        typer.Option("--format", help="W3C Thing Description, or Asset Administration Shell (needs gemel\\[aas])."),
    ] = "td",
    ca_file: Annotated[Path | None, typer.Option(help="The plant's certificate authority, for mqtts.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="The client certificate.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its key.")] = None,
) -> None:
    """Describe a twin in the words of a standard, for programs that nobody here wrote."""
    from uuid import uuid4

    from gemel.adapters.bus_settings import BusSettings
    from gemel.console.describing import FORMATS, read_twin
    from gemel.host.logs import configure_logs

    configure_logs("console", "console", "warning")  # and on stderr: what is described stands alone on stdout
    settings = BusSettings(
        broker,
        f"gemel-describe-{uuid4().hex[:8]}",
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        session_expiry_s=0,
    )
    twin = asyncio.run(read_twin(settings, site, asset))
    typer.echo(FORMATS[format_](twin, broker), nl=False)


@app.command("export-chain")
def export_chain(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A founded fleet: its chain.json names the node.")],
) -> None:
    """Keep what the chain says of a fleet in DIR/chain-export.json, for an audit without a node."""
    from gemel.console.exporting import write_export

    typer.echo(asyncio.run(write_export(directory)))


def _show(keys: Mapping[str, Keys]) -> None:
    for name, key in keys.items():
        typer.echo(f"{name}: address {key.identity.address}, box {key.box}")
