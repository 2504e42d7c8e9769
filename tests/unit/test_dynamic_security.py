"""The plugin's forms, and what the adapter does with answers that are late, lost or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.adapters.dynamic_security import (
    ANSWER_TOPIC,
    CONTROL_TOPIC,
    AccessLine,
    Client,
    RoleLines,
    RoleName,
    SecurityDocument,
    commands,
    found,
    read_security_file,
    security_document,
    security_file,
)
from gemel.adapters.mosquitto_rights import ATTEMPTS, ROLES_A_PAGE, MosquittoRights
from gemel.errors import BusUnavailable, ConfigError
from gemel.ports import Bus, BusMessage, Handler
from gemel.wire.entitlements import EVERYBODY, Entitlement, differences
from gemel.wire.rights import Right
from tests.support.parties import LISTENER, WANTED

ADMINISTRATOR = LISTENER.address
REPOSITORY = Path(__file__).parents[2]

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
some_rights = st.frozensets(st.builds(Right, st.sampled_from(["read", "write"]), names), max_size=4)
states = st.lists(st.builds(Entitlement, names, some_rights), unique_by=lambda one: one.user).map(frozenset)


@given(states, st.none() | names)
def test_what_is_written_is_found_again(wanted: frozenset[Entitlement], other: str | None) -> None:
    administrator = other or next(iter({one.user for one in wanted}), "nobody")
    file = security_file(wanted, administrator)
    assert found(read_security_file(file, "file"), administrator) == wanted


def test_example_in_the_repository_is_what_the_code_writes() -> None:
    shipped = REPOSITORY / "mosquitto" / "dynamic-security.json"
    assert shipped.read_bytes() == security_file(WANTED, ADMINISTRATOR), "write it: python -m tests.support.parties"


def test_nobody_but_the_administrator_may_use_the_control_topic() -> None:
    lines = [
        (role.rolename, acl.topic) for role in security_document(WANTED, ADMINISTRATOR).roles for acl in role.acls
    ]
    assert {user for user, topic in lines if topic.startswith("$")} == {ADMINISTRATOR}


def test_defaults_of_the_plugin_are_a_difference() -> None:
    document = replace(security_document(WANTED, ADMINISTRATOR), defaultACLAccess={})
    assert found(document, ADMINISTRATOR) - WANTED == {
        Entitlement(EVERYBODY, frozenset({Right("read", "#")}), frozenset({"may not subscribe"}))
    }


def test_administrator_that_may_administer_no_more_is_remarked() -> None:
    document = security_document(WANTED, administrator="twin-registry")
    (listener,) = (one for one in found(document, ADMINISTRATOR) if one.user == ADMINISTRATOR)
    assert f"is not given publishClientSend {CONTROL_TOPIC}" in listener.remarks


def test_client_that_stands_twice_hides_nothing() -> None:
    once = security_document(WANTED, ADMINISTRATOR)
    spy = RoleLines("spy", (AccessLine("publishClientReceive", "#", True),))
    twice = replace(once, clients=(Client("plc-7", (RoleName("spy"),)), *once.clients), roles=(*once.roles, spy))
    (named,) = (one for one in found(twice, ADMINISTRATOR) if one.user == "plc-7")
    assert Right("read", "#") in named.rights
    assert named.remarks == {"holds the roles spy", "stands there twice"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"clients": 3}', b'{"roles": [{}]}', b"\xff"])
def test_file_of_another_form_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^dynamic-security\.json: "):
        read_security_file(data, "dynamic-security.json")


# --- commands ------------------------------------------------------------------------------------

few = st.sampled_from(["ann", "bob", "eve", "listener"])
role_names = st.lists(few.map(RoleName), max_size=2, unique=True).map(tuple)
any_lines = st.lists(
    st.builds(AccessLine, st.sampled_from(["publishClientSend", "publishClientReceive"]), names, st.booleans()),
    max_size=2,
    unique_by=lambda line: (line.acltype, line.topic),
).map(tuple)
documents = st.builds(
    SecurityDocument,
    st.dictionaries(st.sampled_from(["publishClientReceive", "subscribe"]), st.booleans()),
    st.lists(st.builds(Client, few, role_names, st.booleans()), unique_by=lambda one: one.username).map(tuple),
    st.just(()),
    st.tuples(*(st.builds(RoleLines, st.just(name), any_lines) for name in ("ann", "bob", "eve", "listener"))),
)
few_wanted = st.lists(st.builds(Entitlement, few, some_rights), unique_by=lambda one: one.user).map(frozenset)


def carried_out(document: SecurityDocument, command: dict[str, Any]) -> SecurityDocument:
    """What mosquitto's plugin does with a command, and where 2.0.11 crashes."""
    clients = {client.username: client for client in document.clients}
    roles = {role.rolename: role for role in document.roles}
    user, role = command.get("username", ""), command.get("rolename", "")
    match command["command"]:
        case "setDefaultACLAccess":
            return replace(document, defaultACLAccess={acl["acltype"]: acl["allow"] for acl in command["acls"]})
        case "createRole":
            roles.setdefault(role, RoleLines(role))
        case "modifyRole":
            roles[role] = RoleLines(role, msgspec.convert(command["acls"], tuple[AccessLine, ...]))
        case "deleteRole":
            assert not any(RoleName(role) in client.roles for client in clients.values()), "mosquitto issue 2660"
            roles.pop(role, None)
        case "createClient":
            clients.setdefault(user, Client(user, msgspec.convert(command["roles"], tuple[RoleName, ...])))
        case "deleteClient":
            clients.pop(user, None)
        case "disableClient" | "enableClient" as switch:
            clients[user] = replace(clients[user], disabled=switch == "disableClient")
    return replace(document, clients=tuple(clients.values()), roles=tuple(roles.values()))


@given(documents, few_wanted)
def test_commands_make_any_state_as_wanted_and_delete_no_role_that_is_held(
    document: SecurityDocument, wanted: frozenset[Entitlement]
) -> None:
    mended = differences(wanted, found(document, "listener"))
    for step in commands(mended, document, "listener"):
        for command in step:
            document = carried_out(document, command)
    assert found(document, "listener") == wanted


# --- answers -------------------------------------------------------------------------------------


class Plugin(Bus):
    """A bus on which a plugin with one document answers; `spoil` sees each answer first, and may say another."""

    def __init__(self, spoil: Callable[[int, dict[str, Any]], bytes | None]) -> None:
        self.document: SecurityDocument = security_document(WANTED, ADMINISTRATOR)
        self._spoil, self._turn = spoil, count()
        self.sent: list[dict[str, Any]] = []
        self._handler: Handler | None = None

    async def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, concurrency: int = 1) -> None:
        assert topic_filter == ANSWER_TOPIC
        self._handler = handler

    async def unsubscribe(self, topic_filter: str) -> None:
        self._handler = None

    @property
    def connected(self) -> bool:
        return True

    async def publish(self, topic: str, payload: bytes, **told: Any) -> None:
        assert topic == CONTROL_TOPIC
        asked = json.loads(payload)["commands"]
        self.sent += asked
        answer = {"responses": [self._answer(command) for command in asked]}
        spoilt = self._spoil(next(self._turn), answer)
        if spoilt is not None and self._handler is not None:
            await self._handler(BusMessage(ANSWER_TOPIC, spoilt))

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        said = {"command": command["command"], "correlationData": command["correlationData"]}
        if said["command"] == "getDefaultACLAccess":
            defaults = self.document.defaultACLAccess.items()
            return said | {"data": {"acls": [{"acltype": kind, "allow": allow} for kind, allow in defaults]}}
        if said["command"].startswith("list"):
            key = said["command"].removeprefix("list").lower()
            entries = json.loads(security_file(WANTED, ADMINISTRATOR))[key]
            page = entries[command["offset"] : command["offset"] + command["count"]]
            return said | {"data": {"totalCount": len(entries), key: page}}
        return said


def plainly(_turn: int, answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode()


def spoilt_once(spoilt: bytes | None) -> Callable[[int, dict[str, Any]], bytes | None]:
    return lambda turn, answer: spoilt if turn == 0 else plainly(turn, answer)


WRONG = {
    "nothing": None,
    "no JSON": b"{",
    "another form": b'{"responses": {}}',
    "not UTF-8": b"\xff",
    "an answer to another's word": b'{"responses": [{"command": "getDefaultACLAccess", "correlationData": "else"}]}',
    "the plugin's complaint": b'{"responses": [{"command": "Unknown command", "error": "Payload not valid JSON"}]}',
    "no data": b'{"responses": [{"command": "getDefaultACLAccess", "correlationData": "w"}]}',
    "data of another form": b'{"responses": [{"command": "getDefaultACLAccess", "correlationData": "w", '
    b'"data": {"acls": [3]}}]}',
    "an answer to another command": b'{"responses": [{"command": "listRoles", "correlationData": "w"}]}',
    "a refusal": b'{"responses": [{"command": "getDefaultACLAccess", "correlationData": "w", "error": "no"}]}',
}


def over(plugin: Plugin) -> MosquittoRights:
    return MosquittoRights(plugin, ADMINISTRATOR, answer_deadline_s=0.05, word=lambda: "w")


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_answer_that_is_wrong_once_is_asked_for_again(answer: bytes | None) -> None:
    async with over(Plugin(spoilt_once(answer))) as rights:
        assert await rights.read() == WANTED


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_answer_that_stays_wrong_is_one_clear_error(answer: bytes | None) -> None:
    plugin = Plugin(lambda _turn, _answer: answer)
    async with over(plugin) as rights:
        with pytest.raises(BusUnavailable, match=r"^the broker's security plugin (did not )?(answer|refuse)[^\n]+$"):
            await rights.apply(WANTED)
    assert [command["command"] for command in plugin.sent] == ["getDefaultACLAccess"] * ATTEMPTS


async def test_lists_are_read_page_by_page() -> None:
    assert len(WANTED) > ROLES_A_PAGE
    plugin = Plugin(plainly)
    async with over(plugin) as rights:
        await rights.read()
    offsets = [command["offset"] for command in plugin.sent if command["command"] == "listRoles"]
    assert offsets == list(range(0, len(WANTED), ROLES_A_PAGE))


TOO_MANY = frozenset(Right("read", f"plant/{number}") for number in range(3_000))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (WANTED | {Entitlement("a/b", frozenset())}, "a/b"),
        (WANTED | {Entitlement("ann", TOO_MANY)}, "not 3000 of them"),
        (frozenset({Entitlement("ann", frozenset())}), "administrator must be among"),
    ],
)
async def test_nothing_is_sent_of_what_cannot_be_said_whole(wrong: frozenset[Entitlement], why: str) -> None:
    plugin = Plugin(plainly)
    async with over(plugin) as rights:
        with pytest.raises(ConfigError, match=why):
            await rights.apply(wrong)
    assert plugin.sent == []


async def test_who_does_not_change_is_not_touched() -> None:
    plugin = Plugin(plainly)
    async with over(plugin) as rights:
        await rights.apply(WANTED)
        assert not any(command["command"].startswith(("create", "modify", "delete")) for command in plugin.sent)
        await rights.apply(WANTED | {Entitlement("ann", frozenset())})
    changes = [command for command in plugin.sent if not command["command"].startswith(("list", "get"))]
    assert {command.get("username", command.get("rolename")) for command in changes} == {"ann"}
