"""What a person types: `gemel audit`, `assign`, `budget`, `found`, `grant`, `keys` and others.

Commands import what they need when they run: `gemel --help` shall not wait for a chain client and a sealing library.
Exit status 0: done, or all holds; 1: an audit has findings; 2: it cannot be done, and one line on stderr says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gemel.console import granting_command
from gemel.console.audit_command import audit_app
from gemel.console.maintenance_command import maintenance_app

if TYPE_CHECKING:
    from gemel.adapters.key_files import Keys

app = typer.Typer()
keys_app = typer.Typer(help="Make, show, rotate and destroy key files.", no_args_is_help=True)
twin_app = typer.Typer(help="Look at twins.", no_args_is_help=True)
besu_app = typer.Typer(help="Write the files of a Besu QBFT network (deploy/besu).", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
app.add_typer(maintenance_app, name="maintenance")
app.add_typer(twin_app, name="twin")
app.add_typer(granting_command.grant_app, name="grant")
app.add_typer(granting_command.revoke_app, name="revoke")
app.command("grants")(granting_command.grants)
app.command("assign")(granting_command.assign)
app.command("security-file")(granting_command.security_file)
app.add_typer(besu_app, name="besu")

_KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A party's key file.")]


@keys_app.command("create")
def create_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, made with mode 0600.")],
) -> None:
    """Make a party's identity and box secret."""
    from gemel.adapters import key_files

    _show({path.stem: key_files.create(path)})


@keys_app.command("show")
def show_key(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A key file, or a custodian's state directory.")],
) -> None:
    """Show address and box key, or a custodian's sealing keys by round and fingerprint. Never a secret.

    Address and box key are what a fleet's operator registers. A sealing key's fingerprint is the SHA-256 of its
    public half, which is what the round's announcement names.
    """
    from gemel.adapters import key_files
    from gemel.console import keeping

    if path.is_dir():
        for line in keeping.sealing_keys(path):
            typer.echo(line)
    else:
        _show({path.stem: key_files.load(path)})


_Fleet = Annotated[
    Path | None, typer.Option("--fleet", metavar="DIR", help="The founded fleet: its chain.json names the node.")
]
_Operator = Annotated[
    Path | None, typer.Option("--operator", metavar="FILE", help="The operator's key file, to write on the chain.")
]


@keys_app.command("rotate")
def rotate_key(path: _KeyFile, fleet: _Fleet = None, operator: _Operator = None) -> None:
    """Make the party's next keys beside its key file, and have them registered. Nothing in use changes.

    With --fleet and --operator they are registered here, in the role of those in use; else the operator is told what
    to register. Then: gemel keys confirm.
    """
    from gemel.adapters import key_files
    from gemel.console import keeping

    former, following = key_files.prepare_next(path)
    _show({"in use": former, "next": following})
    if fleet is not None and operator is not None:
        record = asyncio.run(keeping.register_next(fleet, key_files.load(operator), former, following))
        typer.echo(f"registered as {record.role.name.lower()} of owner {record.owner}")
    else:
        typer.echo("to register: the next address and box key, in the role and for the owner of those in use")
    typer.echo("where trust.json pins the party, every party needs one that names the next keys")
    typer.echo(f"then: gemel keys confirm {path}, and restart the service")


@keys_app.command("confirm")
def confirm_key(path: _KeyFile, fleet: _Fleet = None, operator: _Operator = None) -> None:
    """Put the next keys in the place of those in use, which are kept until they are destroyed.

    With --fleet only where the chain has them registered; with --operator, too, the former ones are suspended there.
    """
    from gemel.adapters import key_files
    from gemel.console import keeping

    former, following = key_files.load(path), key_files.load(key_files.next_path(path))
    if fleet is not None:
        asyncio.run(keeping.check_registered(fleet, former, following))
    if fleet is not None and operator is not None:
        asyncio.run(keeping.suspend(fleet, key_files.load(operator), former))
    retired = key_files.confirm_next(path)
    _show({"in use": following, "retired": former})
    if fleet is None:
        typer.echo("not compared with the chain (--fleet DIR): a party that is not registered is not heard")
    if fleet is None or operator is None:
        typer.echo(f"to suspend on the chain: {former.identity.address}")
    typer.echo(f"what was wrapped for the former keys opens with them alone: then gemel keys destroy {retired}")


@keys_app.command("destroy")
def destroy_key(
    path: _KeyFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Overwrite and remove a key file, and say what may still hold what was in it."""
    from gemel.adapters import key_files

    keys = key_files.load(path)
    _show({path.stem: keys})
    if not yes:
        typer.confirm("Nothing brings these keys back. Destroy them?", abort=True)
    key_files.destroy(path)
    typer.echo("overwritten and removed; what may still hold them, only you can clear:")
    typer.echo("- backups and snapshots of this file system, and blocks that a journal or a flash disk has spared")
    typer.echo("- copies handed to services (LoadCredential= of a unit that runs), or made by hand")
    for other in (key_files.next_path(path), key_files.retired_path(path)):
        if other.exists():
            typer.echo(f"- {other} holds other keys of the party")
    typer.echo(f"the chain counts {keys.identity.address} until its operator suspends it")


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
    """Found a fleet: keys, contracts, every party registered, a first election, the task, and the files to pin."""
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


@app.command("budget")
def budget(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="The fleet's plan, a TOML file.")],
    parameters: Annotated[int, typer.Option(min=1, help="How many numbers the task's model has.")],
    features: Annotated[
        int | None, typer.Option(min=1, help="A linear head's, its constant included, for training.encrypted.")
    ] = None,
) -> None:
    """Show what a plan's policy costs in bytes, noise and resolution, or say why it does not hold."""
    from gemel.console import founding
    from gemel.sealing import costs

    typer.echo(costs.describe(founding.load_plan(plan_path).policy, parameters, features), nl=False)


@app.command("statistics")
def statistics(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The founded fleet that pools statistics.")],
    task: Annotated[str, typer.Option(help="Its task, an import path such as module:attribute.")],
    blobs: Annotated[Path, typer.Option(help="The models of its coordinator or of a validator: STATE_DIR/blobs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep them here, for statistics_file in settings.")
    ] = None,
) -> None:
    """Show the statistics that a fleet has pooled under encryption and its validators approved."""
    from gemel.console import pooling
    from gemel.wire.types import sha256

    pools = pooling.statistics_task(task)
    model = asyncio.run(pooling.approved_model(directory, blobs))
    typer.echo(pooling.table(pools, model))
    typer.echo(f"model {sha256(model)}")
    if out is not None:
        asyncio.run(pooling.keep(out, model))


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


@besu_app.command("genesis")
def besu_genesis(
    chain_id: Annotated[int, typer.Option(help="A number that no other network has.")],
    validators: Annotated[str, typer.Option(metavar="0x..,0x..", help="The first validators' node addresses.")],
    block_period_s: Annotated[int, typer.Option(help="Seconds from block to block.")] = 2,
) -> None:
    """Write genesis.json to standard output: four validators or more, seated by the first block itself."""
    import json

    from gemel.console import besu

    document = besu.genesis(chain_id, validators.split(","), block_period_s=block_period_s)
    typer.echo(json.dumps(document, indent=2))


@besu_app.command("transition")
def besu_transition(
    genesis: Annotated[Path, typer.Argument(metavar="GENESIS", help="The network's genesis.json.")],
    election: Annotated[str, typer.Option(metavar="0x..", help="The Election, whose first epoch is closed.")],
    block: Annotated[int, typer.Option(help="From which block on; ahead of every node.")],
) -> None:
    """Write genesis.json anew to standard output: from that block on the Election says who makes blocks."""
    import json

    from gemel.console import besu
    from gemel.errors import ConfigError

    try:
        document = json.loads(genesis.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(str(genesis), "genesis", "a readable file of JSON") from error
    typer.echo(json.dumps(besu.with_election(document, election, block), indent=2))


def _show(keys: Mapping[str, Keys]) -> None:
    for name, key in keys.items():
        typer.echo(f"{name}: address {key.identity.address}, box {key.box}")
