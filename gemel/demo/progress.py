"""What a person sees while the plant runs: told by the chain's events and by what the agents say on the bus."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

import structlog
from rich.console import Console

from gemel.errors import Malformed
from gemel.ports import BusMessage, ChainEvent
from gemel.twin.agent import status_from_json
from gemel.twin.state import from_json
from gemel.wire.eip712 import task_id
from gemel.wire.types import Digest

log = structlog.get_logger(__name__)

_PHASES = {
    "RoundOpened": "opened: the custodian makes this round's key, agents train",
    "ListClosed": "listed: every commitment is on chain, frames are revealed",
    "SumProposed": "aggregated: validators recompute the sum",
    "SumConfirmed": "confirmed: the custodian may open this one sum",
    "SumOpened": "opened: candidate measured and explained",
    "CandidateProposed": "measured: validators vote",
}


class Progress:
    """Prints a line for each step, and remembers what the report needs."""

    def __init__(self, console: Console, task: str) -> None:
        self._console, self._task_id, self._began = console, task_id(task), time.monotonic()
        self.agent_rounds: dict[str, dict[int, dict[str, object]]] = defaultdict(dict)
        self.approved: dict[int, Digest] = {}  # round → model
        self.final: dict[int, str] = {}
        self.deployment = 0
        self.diagnosed: dict[str, int] = {}  # asset → deployment number of the model behind its health

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {text}", highlight=False)

    async def on_event(self, event: ChainEvent) -> None:
        """One event of the contracts."""
        values = event.values
        if values.get("task") != self._task_id:
            return
        round_, block = _number(values, "round"), f"[dim]block {event.block}[/]"
        name = f"round {round_}" if round_ else "M0"
        if event.name == "VoteRevealed":
            verdict = "yes" if values["approved"] else "no"
            self.say(f"{name}  vote {verdict}: measured {_percent(values['accuracy'])}  {block}")
        elif event.name == "RoundApproved":
            self.approved[round_], self.deployment = str(values["model"]), _number(values, "deployment")
            self.say(
                f"[bold green]{name}  approved[/] as deployment {self.deployment}: accuracy"
                f" {_percent(values['accuracy'])}, model in use {_percent(values['baseline'])}  {block}"
            )
        elif event.name == "RoundRejected":
            self.final[round_] = "rejected"
            self.say(
                f"[bold red]{name}  refused by the contract[/]: accuracy {_percent(values['accuracy'])},"
                f" model in use {_percent(values['baseline'])}  {block}"
            )
        elif event.name == "RoundDeployed":
            self.final[round_] = "deployed"
            self.say(f"{name}  deployed: {values['agents']} agents run it  {block}")
        elif event.name == "RoundAborted":
            self.final[round_] = "aborted"
            self.say(f"[bold red]{name}  aborted[/]: {values['reason']}  {block}")
        elif event.name in _PHASES:
            self.say(f"{name}  {_PHASES[event.name]}  {block}")

    async def on_status(self, message: BusMessage) -> None:
        """An agent's status document."""
        try:
            status = status_from_json(message.payload)
        except Malformed as error:
            log.warning("status passed over", topic=message.topic, why=str(error))
            return
        if status.learning is None:
            return
        rounds, learning = self.agent_rounds[status.name], status.learning
        known = rounds.get(learning.round, {})
        told = {f: getattr(learning, f) for f in learning.__struct_fields__ if getattr(learning, f) is not None}
        if learning.loss is not None and "loss" not in known:
            self.say(
                f"round {learning.round}  {status.name} trained on {learning.samples} windows:"
                f" loss {learning.loss:.3f}, sealed frame {(learning.frame_bytes or 0) / 1000:.0f} kB"
            )
        rounds[learning.round] = known | told

    async def on_twin(self, message: BusMessage) -> None:
        """A twin document."""
        try:
            twin = from_json(message.payload)
        except Malformed as error:
            log.warning("twin passed over", topic=message.topic, why=str(error))
            return
        if twin.model is not None and twin.health:
            self.diagnosed[twin.asset] = twin.model.deployment


def _number(values: Mapping[str, object], name: str) -> int:
    return int(str(values.get(name, 0)))


def _percent(parts: object) -> str:
    return f"{int(str(parts)) / 10_000:.1f} %"
