"""python -m validator what-if --config FILE --site S --asset A --from T --to T: all wiring is here.

It reads: the chain for which model is in use and which stands as a candidate, the validator's blobs for both, and the
registry for history. It needs no key, sends nothing anywhere and may run beside the service.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from gemel.adapters import key_files
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_node import Patience
from gemel.adapters.file_blobs import FileBlobs
from gemel.errors import ConfigError, GemelError, Malformed
from gemel.host.logs import configure_logs
from gemel.host.party import read_file
from gemel.host.workers import Workers
from gemel.learning import exports
from gemel.learning.task import Task, load_task
from gemel.ports import Blobs, Chain, RoundState
from gemel.twin.state import RunningModel, Twin, blank
from gemel.wire import tensors, topics
from gemel.wire.trust import load_trust
from gemel.wire.types import NO_DIGEST, Digest, Millis, sha256
from validator.plant_history import PlantHistory
from validator.settings import RegistrySection, ValidatorSettings
from validator.what_if import MAX_FILL, Comparison, Fork, Inspection, Replay, Replayed, compare_bytes, fork, shape_of
from validator.what_if_tables import show

CANNOT = 2  # exit status: one line on stderr says why
MAX_SPAN_MS = 7 * 86_400_000  # 10,000 windows of a minute
PATIENCE = Patience(request_s=5.0, give_up_s=5.0)  # somebody is waiting
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(rb"[!-~]+")  # as a header carries it
_NAME = "what-if"


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked: whose history, from when to before when, through which candidate (None: the one on chain).

    `max_fill`: the longest gap, in readings, that does not cost its window.
    """

    site: str
    asset: str
    from_ms: Millis
    to_ms: Millis
    candidate: str | None
    inspections: Path | None = None
    max_fill: int = MAX_FILL


class WhatIf(msgspec.Struct, frozen=True):
    """The whole answer, as `--json` prints it. `in_use` and `candidate` are models' digests."""

    site: str
    asset: str
    from_ms: Millis
    to_ms: Millis
    in_use: Digest
    candidate: Digest
    comparison: Comparison
    fork: Fork


@dataclass(frozen=True, slots=True)
class Models:
    """Both models' bytes, and the names that a twin would give them."""

    in_use: bytes
    candidate: bytes
    running: RunningModel
    proposed: RunningModel


def what_if(
    config: Annotated[Path, typer.Option(help="The validator's TOML file.", dir_okay=False)],
    site: Annotated[str, typer.Option(help="The machine's site.")],
    asset: Annotated[str, typer.Option(help="The machine.")],
    begin: Annotated[str, typer.Option("--from", help="Where the twin is forked: ISO 8601 or ms since 1970.")],
    end: Annotated[str, typer.Option("--to", help="How far its history is replayed (exclusive).")],
    candidate: Annotated[
        str | None,
        typer.Option(metavar="DIGEST|FILE", help="Another model than the one validators are voting on."),
    ] = None,
    inspections: Annotated[
        Path | None, typer.Option(metavar="CSV", help="What inspections found: time and the class of each head.")
    ] = None,
    max_fill: Annotated[
        int, typer.Option(min=0, metavar="READINGS", help="The longest gap that is filled; the agent's max_fill_s.")
    ] = MAX_FILL,
    everything: Annotated[bool, typer.Option("--all", help="Show windows on which both agree, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """Replay a twin's stored history through a candidate model, beside the model in use."""
    try:
        moments = _moment(begin, "--from"), _moment(end, "--to")
        question = Question(site, asset, *moments, candidate, inspections, max_fill)
        settings = ValidatorSettings.load(config)
        configure_logs(_NAME, settings.log_format, "warning")
        answer = asyncio.run(ask(settings, question))
    except GemelError as error:
        typer.echo(f"{_NAME}: {error}", err=True)
        raise typer.Exit(CANNOT) from error
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    else:
        show(answer.comparison, answer.in_use, answer.candidate, Console(), everything=everything)


async def ask(settings: ValidatorSettings, question: Question) -> WhatIf:
    """The answer. Raises GemelError: whatever is missing, away or refused, in one line."""
    _check(question)
    if settings.registry is None:
        raise ConfigError("settings", "registry.url", "required: where the plant's history is asked for")
    task = load_task(settings.task)
    inspections = _inspections(question, task)
    models = await _models(settings, question.candidate)
    stood, replayed = await _replay(settings.registry, question, task, inspections)
    async with Workers() as workers:
        comparison = await workers.run(compare_bytes, settings.task, replayed, models.in_use, models.candidate)
    return WhatIf(
        question.site,
        question.asset,
        question.from_ms,
        question.to_ms,
        models.running.digest,
        models.proposed.digest,
        comparison,
        fork(task, stood, replayed, comparison, models.running, models.proposed),
    )


# --- the question ---------------------------------------------------------------------------------


def _moment(text: str, option: str) -> Millis:
    time_ms = exports.time_ms_of(text)
    if time_ms is None:
        raise ConfigError(option, repr(text), "ISO 8601 (UTC where it names no zone) or ms since 1970")
    return time_ms


def _check(question: Question) -> None:
    topics.name(question.site, "--site")
    topics.name(question.asset, "--asset")
    if not 0 < question.to_ms - question.from_ms <= MAX_SPAN_MS:
        raise ConfigError(
            "--to", _shown(question.to_ms), f"after --from, by at most {MAX_SPAN_MS // 86_400_000} days"
        )


def _inspections(question: Question, task: Task) -> Sequence[Inspection]:
    if question.inspections is None:
        return ()
    found = exports.inspections(question.inspections, task.heads)
    return [inspection for inspection in found if question.from_ms < inspection[0] <= question.to_ms]


# --- the models -----------------------------------------------------------------------------------


async def _models(settings: ValidatorSettings, named: str | None) -> Models:
    trust = load_trust(read_file(settings.trust_file, "trust_file"), str(settings.trust_file))
    task = load_task(settings.task)
    blobs = FileBlobs(settings.state_dir / "blobs")
    async with EvmChain(settings.chain.place(), None, patience=PATIENCE) as chain:
        standing = await chain.task(trust.task)
        if standing.model == NO_DIGEST:
            raise ConfigError("chain", trust.task, "a task with a model in use; it has none yet")
        if named is None:
            named = await _voted_on(chain, trust.task, standing.last_round)
    in_use = await _blob(blobs, standing.model)
    candidate = await _blob(blobs, named) if _DIGEST.fullmatch(named) else read_file(Path(named), "--candidate")
    try:
        tensors.from_bytes(candidate, task.manifest)
    except Malformed as error:
        raise ConfigError("--candidate", named, f"a model of {settings.task} ({error})") from error
    return Models(
        in_use,
        candidate,
        RunningModel(standing.model, standing.deployment),
        RunningModel(sha256(candidate), standing.deployment + 1),
    )


async def _voted_on(chain: Chain, task: str, round_: int) -> Digest:
    record = await chain.round(task, round_)
    if record.state is not RoundState.MEASURED:
        said = f"round {round_} is {record.state.name.lower()}, so nothing is voted on"
        raise ConfigError("--candidate", "required", f"a digest or a file ({said})")
    return record.model


async def _blob(blobs: Blobs, digest: Digest) -> bytes:
    try:
        return await blobs.get(digest)
    except KeyError:
        raise ConfigError("blobs", digest, "a model that this validator has") from None


# --- the history ----------------------------------------------------------------------------------


async def _replay(
    registry: RegistrySection, question: Question, task: Task, inspections: Sequence[Inspection]
) -> tuple[Twin, Replayed]:
    """The twin as it stood at the beginning (blank where nobody knew of it yet), and what followed."""
    site, asset, names = question.site, question.asset, [column.name for column in task.inputs]
    async with PlantHistory(registry.url, _token(registry)) as history:
        now = await history.twin(site, asset)
        if now is None:
            raise ConfigError("--asset", f"{site}/{asset}", "a twin that the registry knows")
        _check_units(task, now)
        stood = await history.twin(site, asset, question.from_ms)
        replay = Replay(shape_of(task, question.max_fill), inspections)
        span = {"from_ms": question.from_ms, "to_ms": question.to_ms}
        async for reading in history.readings(site, asset, names, **span):
            replay.take(reading)
    replayed = replay.finish()
    if not replayed.windows:
        machine = f"{site}/{asset}"
        time = f"{_shown(question.from_ms)} to {_shown(question.to_ms)}"
        raise ConfigError(machine, time, _why_nothing(task, replayed))
    return stood or blank(site, asset), replayed


def _check_units(task: Task, twin: Twin) -> None:
    for column in task.inputs:
        known = twin.properties.get(column.name)
        if known is not None and known.unit != column.unit:
            wanted = f"{column.name} in {column.unit}, as the task reads it, not {known.unit}"
            raise ConfigError("--asset", f"{twin.site}/{twin.asset}", wanted)


def _why_nothing(task: Task, replayed: Replayed) -> str:
    if not replayed.readings:
        return "a time with history; the registry has none of it"
    missing = [column.name for column in task.inputs if column.name not in replayed.latest]
    why = (
        f"no usable reading of {', '.join(missing)}"
        if missing
        else f"{replayed.dropped} dropped for gaps beyond --max-fill"
    )
    return f"a time with a whole window of {task.window_s} s ({why})"


def _shown(time_ms: Millis) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _token(registry: RegistrySection) -> str | None:
    if registry.token_file is None:
        return None
    token = read_file(key_files.find(registry.token_file, os.environ), "registry.token_file").strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(str(registry.token_file), "registry.token_file", "a file that holds one token")
    return token.decode("ascii")
