"""ports.BrokerRights over mosquitto's dynamic security plugin, through the administrator's own bus.

Commands are JSON on a control topic. The plugin publishes its answers at QoS 0 to every administrator, so each of
ours carries a word of its own, and one that is lost is asked for again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog

from gemel.adapters.dynamic_security import (
    ANSWER_TOPIC,
    CONTROL_TOPIC,
    DONE_BEFORE,
    Client,
    Command,
    Group,
    RoleLines,
    SecurityDocument,
    commands,
    found,
)
from gemel.errors import BusUnavailable, ConfigError
from gemel.ports import Bus, BusMessage
from gemel.wire.entitlements import Difference, Entitlement, checked, differences
from gemel.wire.rights import User

ATTEMPTS = 3
PAUSE_S = 0.2  # between them
ANSWER_DEADLINE_S = 5.0
# An answer must fit into one message (BusSettings.max_payload_bytes): clients are short, roles have all their lines.
CLIENTS_A_PAGE = 100
ROLES_A_PAGE = 4
USERS_A_BATCH = 4
LARGEST_ROLE_BYTES = 250_000  # about 250 machines of one gateway
LINE_BYTES = 80  # of a line in an answer, beside its topic

_log = structlog.get_logger("gemel.rights")
_T = TypeVar("_T")


class _Answer(msgspec.Struct, frozen=True):
    command: str
    error: str = ""
    correlation: str = msgspec.field(name="correlationData", default="")
    data: dict[str, Any] = {}


class _Answers(msgspec.Struct, frozen=True):
    responses: tuple[_Answer, ...]


class _Default(msgspec.Struct, frozen=True):
    acltype: str
    allow: bool


class MosquittoRights:
    """`async with MosquittoRights(bus, administrator) as rights`; `administrator` is the bus's own user."""

    def __init__(
        self,
        bus: Bus,
        administrator: User,
        *,
        answer_deadline_s: float = ANSWER_DEADLINE_S,
        word: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """`word` draws what an answer is known by."""
        self._bus, self._administrator = bus, administrator
        self._answer_deadline_s, self._word = answer_deadline_s, word
        self._changing, self._asking = asyncio.Lock(), asyncio.Lock()
        self._awaited: tuple[str, asyncio.Future[tuple[_Answer, ...]]] | None = None

    async def __aenter__(self) -> Self:
        await self._bus.subscribe(ANSWER_TOPIC, self._hear)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._bus.unsubscribe(ANSWER_TOPIC)

    async def read(self) -> frozenset[Entitlement]:
        """As ports.BrokerRights."""
        return found(await self._persist(self._document), self._administrator)

    async def apply(self, wanted: frozenset[Entitlement]) -> tuple[Difference, ...]:
        """As ports.BrokerRights. Rights to administer are the administrator's beside what is wanted for it."""
        if self._administrator not in {entitlement.user for entitlement in checked(wanted)}:
            raise ConfigError("broker rights", self._administrator, "the administrator must be among the users")
        for entitlement in wanted:
            size = sum(LINE_BYTES + len(right.topic_filter.encode()) for right in entitlement.rights)
            if size > LARGEST_ROLE_BYTES:
                allowed = f"rights that fit into {LARGEST_ROLE_BYTES} bytes, not {len(entitlement.rights)} of them"
                raise ConfigError("broker rights", entitlement.user, allowed)
        mended: dict[User, Difference] = {}  # as first found, over all attempts
        async with self._changing:
            await self._persist(lambda: self._bring_about(wanted, mended))
        return tuple(mended.values())

    async def _bring_about(self, wanted: frozenset[Entitlement], mended: dict[User, Difference]) -> None:
        document = await self._document()
        left = differences(wanted, found(document, self._administrator))
        for difference in left:
            mended.setdefault(difference.user, difference)
        steps = commands(left, document, self._administrator)
        for at in range(0, len(steps), USERS_A_BATCH):
            await self._ask([command for step in steps[at : at + USERS_A_BATCH] for command in step])

    async def _document(self) -> SecurityDocument:
        (answer,) = await self._ask([{"command": "getDefaultACLAccess"}])
        defaults = _as(answer, "acls", tuple[_Default, ...])
        return SecurityDocument(
            {default.acltype: default.allow for default in defaults},
            clients=tuple(await self._pages("listClients", "clients", Client, CLIENTS_A_PAGE)),
            groups=tuple(await self._pages("listGroups", "groups", Group, CLIENTS_A_PAGE)),
            roles=tuple(await self._pages("listRoles", "roles", RoleLines, ROLES_A_PAGE)),
        )

    async def _pages(self, command: str, key: str, kind: type[_T], count: int) -> list[_T]:
        got: list[_T] = []
        while True:
            (answer,) = await self._ask([{"command": command, "verbose": True, "count": count, "offset": len(got)}])
            page = _as(answer, key, tuple[kind, ...])  # type: ignore[valid-type]  # a type made at run time
            got += page
            if not page or len(got) >= _as(answer, "totalCount", int):
                return got

    async def _persist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(1, ATTEMPTS):
            try:
                return await action()
            except BusUnavailable as error:
                _log.warning("again", attempt=attempt, error=str(error))
                await asyncio.sleep(PAUSE_S)
        return await action()

    async def _ask(self, batch: Sequence[Command]) -> tuple[_Answer, ...]:
        """The answers in the order of `batch`. Raises BusUnavailable where one is missing, or is a refusal."""
        async with self._asking:
            word = self._word()
            payload = msgspec.json.encode({"commands": [command | {"correlationData": word} for command in batch]})
            future: asyncio.Future[tuple[_Answer, ...]] = asyncio.get_running_loop().create_future()
            self._awaited = (word, future)
            try:
                async with asyncio.timeout(self._answer_deadline_s):
                    await self._bus.publish(CONTROL_TOPIC, payload)
                    answers = await future
            except TimeoutError:
                raise BusUnavailable(
                    f"the broker's security plugin did not answer {batch[0]['command']} "
                    f"within {self._answer_deadline_s} s"
                ) from None
            finally:
                self._awaited = None
        if [answer.command for answer in answers] != [command["command"] for command in batch]:
            raise BusUnavailable(f"the broker's security plugin answered other than {batch[0]['command']}")
        for answer in answers:
            if answer.error and answer.error not in DONE_BEFORE:
                raise BusUnavailable(f"the broker's security plugin refused {answer.command}: {answer.error}")
        return answers

    async def _hear(self, message: BusMessage) -> None:
        if self._awaited is None:
            return  # another administrator's, or too late
        word, future = self._awaited
        if future.done():
            return
        try:
            answers = msgspec.json.decode(message.payload, type=_Answers).responses
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            future.set_exception(BusUnavailable(f"the broker's security plugin answered nonsense: {error}"))
            return
        if any(answer.correlation == word for answer in answers):
            future.set_result(answers)


def _as(answer: _Answer, key: str, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(answer.data.get(key), kind)
    except msgspec.ValidationError as error:
        raise BusUnavailable(
            f"the broker's security plugin answered {answer.command} with nonsense: {error}"
        ) from None
