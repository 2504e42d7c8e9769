"""Makes the machine what it shall be: takes up requests, pursues each until it is applied or has failed.

A request is on disk before it is acknowledged to the broker and to its sender, and a restart goes on with what is
pending. So a machine may hear a command twice; each carries the request's id. Commands are never retained, and each
expires when the next attempt is made: a machine that was away hears the latest only.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from string import Template

import structlog

from edge_agent.twinning.live import LiveTwin
from edge_agent.twinning.twin_file import Actuator, ActuatorMap, load_plugin
from gemel.errors import BusRefused, BusUnavailable, Malformed, Refused
from gemel.ports import Bus, BusMessage, Clock, Records
from gemel.twin.desired import (
    DEADLINE,
    DesiredAnswer,
    DesiredBook,
    DesiredChange,
    answer_to_json,
    change_from_json,
    reports,
    request,
    retry_delay_s,
    settle,
)
from gemel.twin.state import Desired, DesiredState, desire, offer
from gemel.wire import topics
from gemel.wire.messages import decode, encode
from gemel.wire.reasons import Reason

ANSWER_EXPIRY_S = 60
MAX_REASON = 200
_KIND = "desired"
_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger("gemel.agent.desired")


class DesiredDesk:
    """What is desired of one machine. Begin with `await DesiredDesk.load(...)`, end by cancelling `run`.

    Requests and answers go over `bus`, the plant's; commands over `machines`, where the machine's readings come from.
    """

    def __init__(
        self,
        actuators: Mapping[str, ActuatorMap],
        book: DesiredBook,
        *,
        twin: LiveTwin,
        bus: Bus,
        machines: Bus,
        clock: Clock,
        records: Records,
    ) -> None:
        """Raises ConfigError for a plug-in that cannot be loaded."""
        self._actuators, self._book = actuators, book
        self._twin, self._clock, self._records = twin, clock, records
        self._bus, self._machines = bus, machines
        self._settable = {name: actuator.settable for name, actuator in actuators.items()}
        self._plugins: dict[str, Actuator] = {
            name: load_plugin(actuator.plugin, f"actuator.{name}")
            for name, actuator in actuators.items()
            if actuator.plugin
        }
        self._keeping = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._pursuits: dict[str, asyncio.Task[None]] = {}
        twin.become(desire(offer(twin.now, self._settable), book.desired))

    @classmethod
    async def load(
        cls,
        actuators: Mapping[str, ActuatorMap],
        *,
        twin: LiveTwin,
        bus: Bus,
        machines: Bus,
        clock: Clock,
        records: Records,
    ) -> DesiredDesk:
        """The desk as it was left."""
        kept = await records.get(_KIND, f"{twin.now.site}/{twin.now.asset}")
        book = DesiredBook() if kept is None else decode(DesiredBook, kept)
        return cls(actuators, book, twin=twin, bus=bus, machines=machines, clock=clock, records=records)

    async def run(self) -> None:
        """Go on with what is pending, and take up requests for ever."""
        async with self._tasks:
            for name, wanted in self._book.desired.items():
                if wanted.state is DesiredState.PENDING:
                    self._pursue(name, wanted)
            await self._bus.subscribe(topics.desired_set(self._twin.now.site, self._twin.now.asset), self.hear)
            _log.info("takes requests", asset=self._twin.now.asset, settable=sorted(self._settable))
            await asyncio.get_running_loop().create_future()  # a group without tasks would end

    async def hear(self, message: BusMessage) -> None:
        """One request. Raises StoreUnavailable, never for what the request says."""
        id_ = ""
        try:
            change = _change_in(message)
            id_ = change.id
            version = self._twin.now.version
            book = request(self._book, change, self._settable, version=version, now_ms=self._clock.now_ms())
        except (Refused, Malformed) as error:
            _log.warning("request refused", id=id_, error=str(error))
            reason = error.reason if isinstance(error, Refused) else Reason.MALFORMED
            await self._answer(message, id_, "refused", reason, _short(error.detail))
            return
        if book is not self._book:
            await self._become(book)
            self._pursue(change.property, book.desired[change.property])
        await self._answer(message, id_, "accepted")

    def _pursue(self, name: str, wanted: Desired) -> None:
        if (older := self._pursuits.get(name)) is not None:
            older.cancel()
        self._pursuits[name] = self._tasks.create_task(self._bring_about(name, wanted), name=f"desired {name}")

    async def _bring_about(self, name: str, wanted: Desired) -> None:
        failed = await self._tried(name, wanted)
        _log.info("request ended", id=wanted.id, property=name, failed=failed)
        await self._become(settle(self._book, name, wanted, self._clock.now_ms(), failed=failed))

    async def _tried(self, name: str, wanted: Desired) -> str | None:
        """None once it is applied, or why it failed."""
        actuator = self._actuators.get(name)
        if actuator is None:  # the file was changed since it was asked for
            return Reason.UNKNOWN_PROPERTY
        attempt, trouble = 0, ""
        while (left_s := (wanted.deadline_ms - self._clock.now_ms()) / 1000) > 0:
            patience_s = min(retry_delay_s(attempt, actuator.retry_s), left_s)
            try:
                trouble = await self._attempt(name, actuator, wanted, patience_s)
            except Refused as refusal:
                return _short(f"{refusal.reason}: {refusal.detail}" if refusal.detail else refusal.reason)
            if not trouble:
                return None
            attempt += 1
            _log.debug("not applied yet", id=wanted.id, attempt=attempt, trouble=trouble)
        return f"{DEADLINE}: {trouble}" if trouble else DEADLINE

    async def _attempt(self, name: str, actuator: ActuatorMap, wanted: Desired, patience_s: float) -> str:
        """What is in the way after so long; "" once it is applied. Raises Refused where the actuator says no."""
        trouble = "the actuator did not answer"
        try:
            async with asyncio.timeout(patience_s):
                try:
                    await self._act(name, actuator, wanted, patience_s)
                except Refused:
                    raise
                except Exception as error:  # noqa: BLE001  a plug-in is somebody else's code
                    trouble = _short(f"{type(error).__name__}: {error}")
                    await asyncio.get_running_loop().create_future()  # the next attempt comes in its time
                trouble = "the machine does not report it"
                await self._reported(name, actuator, wanted)
        except TimeoutError:
            return trouble
        return ""

    async def _act(self, name: str, actuator: ActuatorMap, wanted: Desired, patience_s: float) -> None:
        if name in self._plugins:
            await self._plugins[name].apply(name, wanted.value)
            return
        words = {
            "id": wanted.id,
            "property": name,
            "value": f"{wanted.value:.17g}",
            "unit": wanted.unit,
            "deadline_ms": wanted.deadline_ms,
        }
        payload = Template(actuator.payload).substitute(words).encode()
        expiry_s = max(1, math.ceil(patience_s))
        await self._machines.publish(actuator.topic, payload, expiry_s=expiry_s, properties={"request": wanted.id})

    async def _reported(self, name: str, actuator: ActuatorMap, wanted: Desired) -> None:
        """Returns once the machine is at the value; without a tolerance the actuator's word is enough."""
        tolerance = actuator.tolerance
        if tolerance is not None:
            reported = actuator.reported or name
            await self._twin.until(lambda twin: reports(twin.properties.get(reported), wanted.value, tolerance))

    async def _become(self, book: DesiredBook) -> None:
        """Into the twin, then on disk: whoever waits for this to return may acknowledge."""
        self._book = book
        self._twin.become(desire(self._twin.now, book.desired))
        async with self._keeping:
            await self._records.put(_KIND, f"{self._twin.now.site}/{self._twin.now.asset}", encode(self._book))

    async def _answer(self, message: BusMessage, id_: str, outcome: str, reason: str = "", detail: str = "") -> None:
        """To where the sender awaits it, if that is a place for answers; nobody may send us to write elsewhere."""
        twin = self._twin.now
        prefix, _, user = (message.response_topic or "").rpartition("/")
        if f"{prefix}/+" != topics.desired_answer(twin.site, twin.asset) or not _USER.fullmatch(user):
            return
        answer = DesiredAnswer(id_, "accepted" if outcome == "accepted" else "refused", twin.version, reason, detail)
        try:
            await self._bus.publish(
                topics.desired_answer(twin.site, twin.asset, user),
                answer_to_json(answer),
                expiry_s=ANSWER_EXPIRY_S,
                content_type="application/json",
                correlation=message.correlation,
            )
        except (BusUnavailable, BusRefused) as error:
            _log.warning("answer not sent", id=id_, error=str(error))


def _change_in(message: BusMessage) -> DesiredChange:
    if message.retained:
        raise Refused(Reason.RETAINED, "a request must not be retained")
    return change_from_json(message.payload)


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]
