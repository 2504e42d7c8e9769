"""`gemel grant`, `gemel revoke`, `gemel grants`, `gemel assign`, `gemel audit grants`: who may read whose twins."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gemel.adapters.chain_place import ChainPlace
    from gemel.ports import Sharing
    from gemel.wire.identity import Identity

FINDINGS = 1  # exit status of an audit
_T = TypeVar("_T")

grant_app = typer.Typer(help="Let somebody read a machine's twin for a time; both sides sign.", no_args_is_help=True)
revoke_app = typer.Typer(help="End a grant before its time; its owner signs.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="What goes between the two sides.")]
_Fleet = Annotated[Path, typer.Option("--fleet", metavar="DIR", help="Where the fleet's chain.json is.")]
_Signer = Annotated[Path, typer.Option("--key", metavar="KEY", help="The key file of who signs.")]
_Payer = Annotated[
    Path, typer.Option("--key", metavar="KEY", help="The key file of who hands it in and pays: anybody.")
]


@grant_app.command("propose")
def propose(
    file: _File,
    twin: Annotated[str, typer.Argument(metavar="TWIN", help="SITE/ASSET, or SITE/ASSET/WORD for one topic.")],
    consumer: Annotated[str, typer.Option(help="The address of who may read.")],
    until: Annotated[str, typer.Option(help="When it ends: ISO 8601, or a duration from its beginning (90d, 12h).")],
    key: _Signer,
    fleet: _Fleet = Path(),
    begins: Annotated[str, typer.Option("--from", help="When it begins: ISO 8601, or a duration from now on.")] = "",
) -> None:
    """Owner: write and sign a grant; send the file to the consumer."""
    import secrets
    from datetime import UTC, datetime

    from gemel.console import granting

    now = datetime.now(UTC).replace(microsecond=0)
    start = granting.moment(begins, now) if begins else now
    end = granting.moment(until, start)
    nonce = secrets.randbits(53)
    scope = granting.scope_of(twin)
    proposed = granting.propose(_place(fleet), _identity(key), consumer, scope, start, end, nonce)
    granting.write(file, proposed, new=True)
    typer.echo(f"{proposed}\nsigned by its owner: {file}; then its consumer: gemel grant accept {file}")


@grant_app.command("accept")
def accept(file: _File, key: _Signer, fleet: _Fleet = Path()) -> None:
    """Consumer: look at a grant, and sign it, too."""
    from datetime import UTC, datetime

    from gemel.console import granting

    proposed = granting.read(file, granting.GrantFile, _place(fleet))
    typer.echo(str(proposed))
    granting.write(file, granting.accept(proposed, _identity(key), datetime.now(UTC)), new=False)
    typer.echo(f"signed by both: {file}; then anybody: gemel grant submit {file}")


@grant_app.command("submit")
def submit(file: _File, key: _Payer, fleet: _Fleet = Path()) -> None:
    """Anybody: hand in a grant that both have signed."""
    from gemel.console import granting

    place = _place(fleet)
    signed = granting.read(file, granting.GrantFile, place)
    sent = _on_chain(place, _identity(key), lambda sharing: granting.submit(sharing, signed))
    typer.echo(f"{signed}\ngrant {signed.id}: in block {sent.block}, transaction {sent.transaction}")


@revoke_app.command("sign")
def sign_revocation(
    file: _File,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The grant, as gemel grants shows it.")],
    key: _Signer,
    fleet: _Fleet = Path(),
) -> None:
    """Owner: sign that a grant is over, for good."""
    from gemel.console import granting

    granting.write(file, granting.revocation(_place(fleet), _identity(key), id_), new=True)
    typer.echo(f"signed: {file}; then anybody: gemel revoke submit {file}")


@revoke_app.command("submit")
def submit_revocation(file: _File, key: _Payer, fleet: _Fleet = Path()) -> None:
    """Anybody: hand in what an owner has signed."""
    from gemel.console import granting

    place = _place(fleet)
    ended = granting.read(file, granting.RevocationFile, place)
    sent = _on_chain(place, _identity(key), lambda sharing: sharing.revoke(ended.grant, ended.owner_signature))
    typer.echo(f"grant {ended.grant}: revoked in block {sent.block}, transaction {sent.transaction}")


def grants(fleet: _Fleet = Path(), json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every grant that was ever entered: its id, its state, what it opens, to whom and until when."""
    import msgspec

    from gemel.adapters.clock import SystemClock
    from gemel.console import granting

    lines = _on_chain(_place(fleet), None, lambda sharing: granting.listed(sharing, SystemClock().now_ms()))
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(lines), indent=2))
    else:
        for line in lines:
            typer.echo(str(line))


def assign(
    twin: Annotated[str, typer.Argument(metavar="SITE/ASSET", help="The machine.")],
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Its owner's address.")],
    key: Annotated[Path, typer.Option("--key", metavar="KEY", help="The operator's key file.")],
    fleet: _Fleet = Path(),
) -> None:
    """Operator: say whose a machine is; what its former owner granted of it ends with that."""
    from gemel.console import granting

    asset, address = granting.asset_of(twin), granting.address_of(owner, "owner")
    sent = _on_chain(_place(fleet), _identity(key), lambda sharing: sharing.assign(asset, address))
    typer.echo(f"{twin} is {owner}'s: in block {sent.block}, transaction {sent.transaction}")


def audit_grants(
    security_file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The broker's dynamic-security.json, or a copy of it.")
    ],
    plant: Annotated[Path, typer.Option("--plant", metavar="TOML", help="Who else is at the broker: plant.toml.")],
    fleet: Annotated[
        Path, typer.Option("--fleet", metavar="DIR", help="Where chain.json and trust.json are.")
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="The whole report as JSON.")] = False,
) -> None:
    """Compare the broker's rights with the chain's grants and suspensions, and name every difference."""
    from gemel.console.auditor import broker
    from gemel.console.fleet_files import read_trust

    read_broker = broker.in_file(security_file, read_trust(fleet).listener)
    report = asyncio.run(broker.audit_broker(fleet, plant, read_broker))
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        from rich.console import Console

        broker.show_broker(report, Console())
    if not report.holds:
        raise typer.Exit(FINDINGS)


def security_file(fleet: _Fleet = Path()) -> None:
    """Print the first dynamic-security.json of a broker: it knows the listener alone, who fills in the rest."""
    from gemel.adapters import dynamic_security
    from gemel.console.fleet_files import read_trust
    from gemel.wire.entitlements import Entitlement

    listener = read_trust(fleet).listener
    nobody_else = {Entitlement(listener, frozenset())}
    typer.echo(dynamic_security.security_file(nobody_else, listener), nl=False)


def _place(fleet: Path) -> ChainPlace:
    from gemel.console.fleet_files import read_place

    return read_place(fleet)


def _identity(path: Path) -> Identity:
    from gemel.adapters import key_files

    return key_files.load(path).identity


def _on_chain(place: ChainPlace, signer: Identity | None, work: Callable[[Sharing], Awaitable[_T]]) -> _T:
    from gemel.adapters.contract_calls import ContractCalls
    from gemel.adapters.evm_sharing import EvmSharing

    async def run() -> _T:
        async with ContractCalls(place, signer) as calls:
            return await work(EvmSharing(calls))

    return asyncio.run(run())
