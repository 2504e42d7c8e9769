"""`gemel demo`: the whole plant in one command, and the report of what it did."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gemel.console.fleet_files import EXPORT_FILE
from gemel.demo.plan import POLICY, TASK, TASK_PATH, DemoPlan, Layout
from gemel.demo.report import build
from gemel.demo.report.evidence import Evidence, describe_machine, load, read_agent_rounds
from gemel.demo.supervisor import Outcome, Plant
from gemel.errors import ConfigError, GemelError
from gemel.host.workers import Workers

ENOUGH = 3  # deployed rounds; a contract may refuse an honest candidate, too
FAILED, CANNOT, INTERRUPTED = 1, 2, 130  # exit statuses; 0 is: it went as planned


def demo(
    rounds: Annotated[int, typer.Option(help="Rounds of learning after M0.")] = 4,
    agents: Annotated[int, typer.Option(help="Gateways, each with a rig of its own; at least 3.")] = 4,
    seed: Annotated[int, typer.Option(help="Of split, model and training.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="Keep the plant's state here, for `gemel audit`.")] = None,
    report: Annotated[Path, typer.Option(help="Where report.json and report.html go.")] = Path("demo-report"),
    broker: Annotated[str | None, typer.Option(help="Use this MQTT 5 broker, not one of our own.")] = None,
    rpc: Annotated[str | None, typer.Option(help="Use this EVM chain, not one of our own.")] = None,
    funder: Annotated[
        Path | None, typer.Option(help="A key file whose account pays for gas on that chain (gemel keys).")
    ] = None,
    *,
    one_time_keys: Annotated[
        bool, typer.Option("--one-time-keys", help="Three custodians, of whom none holds a key (decision 0009).")
    ] = False,
    live_only: Annotated[bool, typer.Option("--live-only", help="Stream all cycles, import no history.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Leave the plant running afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the demo plant: real data, real processes, three deployed rounds and a refused one."""
    console = Console()
    try:
        plan = DemoPlan(agents, rounds, seed, live_only, broker, rpc, funder, one_time_keys)
        with _state_dir(keep) as root:
            status = asyncio.run(_run(plan, Layout(root), report.resolve(), console, hold=hold))
    except ConfigError as error:
        print(f"gemel demo: {error}", file=sys.stderr)
        raise typer.Exit(CANNOT) from None
    except GemelError as error:
        print(f"gemel demo: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    if keep is not None:
        console.print(f"state kept in {keep}: gemel audit verify {keep}", highlight=False)
    raise typer.Exit(status)


@contextmanager
def _state_dir(keep: Path | None) -> Iterator[Path]:
    """The plant's directory: the one to keep, which must be new or empty, or one that goes away."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="gemel-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError("gemel demo", "--keep", f"a new or empty directory, which {keep} is not")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


async def _run(plan: DemoPlan, layout: Layout, report: Path, console: Console, *, hold: bool) -> int:
    """Run the plant and write the report. Ctrl-C or SIGTERM ends everything in order."""
    running = asyncio.current_task()
    assert running is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        async with Workers(niceness=10) as beside:  # the plant comes first
            outcome = await Plant(plan, layout, console, beside).run(hold=hold)
        console.print("writing the report: measurements, explanations", highlight=False)
        async with Workers() as workers:
            await workers.run(build, _evidence(plan, layout, outcome, report))
    except asyncio.CancelledError:
        console.print("stopped; nothing is left running", highlight=False)
        return INTERRUPTED
    return _conclude(plan, outcome, report, console)


def _evidence(plan: DemoPlan, layout: Layout, outcome: Outcome, report: Path) -> Evidence:
    sabotage = (
        {} if plan.poisoned_round is None else {plan.poisoned_round: f"{outcome.deal.poisoner} poisoned its update"}
    )
    return Evidence(
        out_dir=report,
        state_dir=layout.root,
        seed=plan.seed,
        machine=describe_machine(),
        duration_s=outcome.duration_s,
        task_path=TASK_PATH,
        plan=POLICY.training,
        agents={name: outcome.keys[name].identity.address for name in plan.agent_names},
        agent_rounds=read_agent_rounds(outcome.progress.agent_rounds),
        gateway_windows=outcome.deal.gateways,
        report_windows=outcome.deal.report,
        validation_windows=outcome.deal.validation,
        kept=load(layout.root, layout.root / EXPORT_FILE, task=TASK),
        baselines=outcome.baselines,
        sabotage=sabotage,
    )


def _conclude(plan: DemoPlan, outcome: Outcome, report: Path, console: Console) -> int:
    """Say what came out. 0 if the poisoned round was refused, none was aborted, and enough were deployed."""
    final = outcome.progress.final
    deployed = sum(state == "deployed" for number, state in final.items() if number > 0)
    refused = sum(state == "rejected" for state in final.values())
    console.print(
        f"{deployed} rounds deployed, {refused} refused, in {outcome.duration_s:.0f} s;"
        f" report: {report / 'report.html'} and report.json",
        highlight=False,
    )
    honest = plan.rounds - (plan.poisoned_round is not None)
    wrong = [f"round {number} was aborted" for number, state in final.items() if state == "aborted"]
    if plan.poisoned_round is not None and final.get(plan.poisoned_round) != "rejected":
        wrong.append(f"the poisoned round {plan.poisoned_round} was not refused")
    if deployed < min(ENOUGH, honest):
        wrong.append(f"{min(ENOUGH, honest)} deployed rounds expected")
    for line in wrong:
        console.print(f"[bold red]{line}[/]", highlight=False)
    return FAILED if wrong else 0
