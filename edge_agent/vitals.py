"""What the service manager is told: one line for `systemctl status`, and whether the agent's own loops move."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.twinning.live import LiveTwin
from edge_agent.twinning.outbox import Outbox
from gemel.ports import Bus, Clock

LOOK_S = 1.0
HELD_UP_S = 20.0  # a change of the twin that is neither published nor kept for so long: its loop stands still
UNATTENDED_S = 120.0  # the same of the outbox, whose sender may wait for a minute after a refusal


class Vitals:
    """One agent's. `alive` is for the watchdog; `run` says each new line."""

    def __init__(self, twin: LiveTwin, outbox: Outbox, model_in_use: ModelInUse, *, bus: Bus, clock: Clock) -> None:
        self._twin, self._outbox, self._model_in_use = twin, outbox, model_in_use
        self._bus, self._clock = bus, clock

    def alive(self) -> bool:
        """Whether changes of the twin go out, or into the outbox, and the outbox is looked after."""
        unattended_s = self._clock.monotonic_s() - self._outbox.attended_s
        return self._twin.held_up_s <= HELD_UP_S and unattended_s <= UNATTENDED_S

    @property
    def line(self) -> str:
        """Link, model and outbox."""
        model = self._model_in_use.current()
        return (
            f"{'linked' if self._bus.connected else 'not linked'}; "
            f"{'no model' if model is None else f'model of deployment {model.deployment}'}; "
            f"{self._outbox.depth} revisions wait"
        )

    async def run(self, say: Callable[[str], None]) -> None:
        """For ever."""
        said = ""
        while True:
            if (line := self.line) != said:
                say(line)
                said = line
            await self._clock.sleep(LOOK_S)
