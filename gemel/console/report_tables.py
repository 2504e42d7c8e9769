"""Reports of an audit, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gemel.console.auditor.device_report import DeviceReport
from gemel.console.auditor.ledger import Mark
from gemel.console.auditor.lineage import Ancestor, LineageReport
from gemel.console.auditor.orders import AuditedOrder
from gemel.console.auditor.round_report import RoundReport, Seat
from gemel.wire.types import NO_DIGEST, Digest, Ppm


def show_lineage(report: LineageReport, console: Console) -> None:
    """From M0 to the model; or that it was never approved."""
    if not report.is_approved:
        console.print(f"[red]{_never(report)}[/]", soft_wrap=True)
        return
    use = ", in use" if report.model == report.in_use else ""
    console.print(f"Model {report.model} of task {escape(report.task)}{use}", soft_wrap=True)
    table = _table("#", "round", "model", "parent", "owners", "stake for it", "median", "before", "state", "block")
    for each in report.ancestry:
        table.add_row(*_ancestor_row(each))
    console.print(table)
    for each in (*report.ancestry, *report.given_up):
        console.print(f"{short(each.model)} approved in {_mark(each.mark)}", soft_wrap=True)
        if (back := each.rolled_back) is not None:
            line = f"rolled back to {short(each.parent)} as deployment {back.deployment}, report {back.report}"
            console.print(f"[yellow]{short(each.model)} {line}: {_mark(back.mark)}[/]", soft_wrap=True)


def show_round(report: RoundReport, console: Console) -> None:
    """Who said what, why it was decided so, and each transaction."""
    chain = report.chain
    console.print(f"Round {report.round} of task {escape(report.task)}: {report.state}, verdict {report.verdict}")
    console.print(escape(report.why), soft_wrap=True)
    for name in ("policy", "base", "roster_root", "updates_root", "sum_digest", "opened", "model", "explanation"):
        if (digest := getattr(chain, name)) != NO_DIGEST:
            console.print(f"  {name.replace('_', ' ')} {digest}", soft_wrap=True)
    claimed = "-" if report.claimed is None else share(report.claimed)
    console.print(f"  median {share(chain.accuracy)}, in use {share(chain.baseline)}, coordinator claims {claimed}")
    _show_seats(report, console)
    if report.trust:
        table = _table("device", "outcome", "score before", "after", "reward")
        for each in report.trust:
            shares = (share(each.outcome), share(each.before), share(each.score))
            table.add_row(each.device, *shares, str(each.reward))
        console.print(table)
    if report.deployed is not None:
        console.print(f"deployment {chain.deployment}: {report.deployed} agents ran it")
    if (back := report.rolled_back) is not None:
        line = f"rolled back as deployment {back.deployment}, report {back.report}: {_mark(back.mark)}"
        console.print(f"[yellow]{line}[/]", soft_wrap=True)
    for slash in report.slashed:
        line = f"{slash.validator} lost {slash.tokens} for what it signed of a {slash.kind}: {_mark(slash.mark)}"
        console.print(f"[red]{line}[/]", soft_wrap=True)
    for step in report.steps:
        console.print(f"{_mark(step.mark)}: {', '.join(step.events)}", soft_wrap=True)


def show_device(report: DeviceReport, console: Console) -> None:
    """Who it is, and what became of what it gave."""
    console.print(f"{report.address}: {report.role} of owner {report.owner}", soft_wrap=True)
    console.print(f"registered: {_mark(report.registered)}", soft_wrap=True)
    if report.suspended is not None:
        console.print(f"[red]suspended: {_mark(report.suspended)}[/]", soft_wrap=True)
    out = ", [red]below the floor[/]" if report.is_left_out else ""
    console.print(f"score {share(report.score)}{out}")
    table = _table("task", "round", "listed", "samples", "level", "outcome", "score", "reward")
    for each in report.rounds:
        said = each.reported
        told = ("-", "-", "-") if said is None else (share(said.outcome), share(said.score), str(said.reward))
        listed = {None: "?", True: "yes", False: "no"}[each.listed]
        table.add_row(escape(each.task), str(each.round), listed, _known(each.samples), _known(each.level), *told)
    console.print(table)
    rewards = report.rewards
    console.print(
        f"earned {report.earned}; its owner {rewards.earned}, claimed {rewards.claimed}, waiting {rewards.waiting}"
    )
    if report.orders:
        show_orders(report.orders, console)


def show_orders(orders: Sequence[AuditedOrder], console: Console) -> None:
    """Every order, step by step."""
    for order in orders:
        console.print(f"{short(order.order)} {escape(order.site)}/{escape(order.asset)}: {order.state}")
        for step in order.steps:
            line = f"  {step.state} by {step.by} at {_time(step.time_s)}, report {short(step.report)}"
            console.print(f"{line}: {_mark(step.mark)}", soft_wrap=True)
    if not orders:
        console.print("no orders")


def short(digest: Digest) -> str:
    """Enough of a digest to find it again."""
    return "-" if digest == NO_DIGEST else digest[:12]


def share(part: Ppm) -> str:
    """Parts per million as a share."""
    return f"{part / 1_000_000:.3f}"


def _show_seats(report: RoundReport, console: Console) -> None:
    table = _table("validator", "stake", "confirmed", "committed", "vote", "median", "in use", "points")
    for seat in report.electorate:
        table.add_row(*_seat_row(seat, report.total_weight))
    console.print(f"Electorate of epoch {report.chain.epoch}")
    console.print(table)
    total = report.total_weight
    approved = "-" if report.approved_weight is None else _part(report.approved_weight, total)
    line = f"confirmed by {_part(report.confirmed_weight, total)} of the stake, approved by {approved}"
    console.print(f"{line}; a quorum is {_part(report.quorum_weight, total)}")


def _seat_row(seat: Seat, total: int) -> Iterable[str]:
    vote = seat.vote
    said = ("-", "-", "-")
    if vote is not None:
        said = ("yes" if vote.approved else "no", share(vote.accuracy), share(vote.baseline))
    points = "-" if seat.points is None else str(seat.points)
    return seat.validator, _part(seat.weight, total), _yes(seat.confirmed), _yes(seat.committed), *said, points


def _ancestor_row(model: Ancestor) -> Iterable[str]:
    total = model.total_weight
    return (
        str(model.deployment),
        str(model.round),
        short(model.model),
        short(model.parent),
        str(model.owners),
        f"{_part(model.approved_weight, total)} of {_part(model.quorum_weight, total)} needed",
        share(model.accuracy),
        share(model.baseline),
        model.state,
        str(model.mark.block),
    )


def _never(report: LineageReport) -> str:
    if not report.proposed:
        return escape(f"no model that begins with {report.model} was ever proposed in task {report.task}")
    rounds = ", ".join(f"round {each.round}: {each.state}, {each.verdict}" for each in report.proposed)
    return escape(f"model {report.model} was never approved ({rounds})")


def _part(weight: int, total: int) -> str:
    return f"{weight / total:.3f}" if total else "-"


def _mark(mark: Mark) -> str:
    return f"transaction {mark.transaction}, block {mark.block}, {_time(mark.time_s)}, by {mark.sender}"


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a spoiled export says anything
        return f"second {seconds}"


def _yes(holds: bool) -> str:  # noqa: FBT001 - a value, as in str
    return "yes" if holds else "no"


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE)
