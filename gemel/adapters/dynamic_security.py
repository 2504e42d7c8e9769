"""The forms of mosquitto's dynamic security plugin: its file, its lists, its commands. Pure, no broker needed.

The plugin knows clients, roles with access lines, and groups. Gemel uses the least of it: each user is one client
that holds one role, which bears the user's own name; no groups. So what stands at the broker is a function of what is
wanted, and all that is more is a difference.

- Reading is decided for each message that is delivered, as by an acl_file: anybody may subscribe to anything
  (except under `$CONTROL`), and hears what he may read. A right that goes thus goes at once, with no link cut.
- 2.0.11 does not look at `disabled` where a certificate names the user (eclipse-mosquitto/mosquitto#2999), so who
  is kept out has no rights either. It ends when a role is deleted before a client that holds it (#2660): clients
  go before their roles, groups before both.

The administrator is the user who changes the rights: beside its own it may use the control topic, as nobody else may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Literal

import msgspec

from gemel.errors import ConfigError
from gemel.wire.entitlements import EVERYBODY, Difference, Entitlement
from gemel.wire.rights import Right, User

CONTROL_TOPIC = "$CONTROL/dynamic-security/v1"
ANSWER_TOPIC = "$CONTROL/dynamic-security/v1/response"
ADMINISTRATION = frozenset({Right("write", CONTROL_TOPIC), Right("read", ANSWER_TOPIC)})
DEFAULTS = {"publishClientSend": False, "publishClientReceive": False, "subscribe": True, "unsubscribe": True}

Command = dict[str, Any]

_ACCESS: Mapping[str, Literal["read", "write"]] = {"publishClientReceive": "read", "publishClientSend": "write"}
_LINE = {access: kind for kind, access in _ACCESS.items()}


class AccessLine(msgspec.Struct, frozen=True):
    """A line of a role. Priorities decide between lines that contradict each other; ours never do."""

    acltype: str
    topic: str
    allow: bool = False


class RoleName(msgspec.Struct, frozen=True):
    """A role that a client or group holds."""

    rolename: str


class ClientName(msgspec.Struct, frozen=True):
    """A client that is in a group."""

    username: str


class Client(msgspec.Struct, frozen=True):
    """Somebody the broker knows."""

    username: str
    roles: tuple[RoleName, ...] = ()
    disabled: bool = False


class RoleLines(msgspec.Struct, frozen=True):
    """What holders of a role may do. `allowwildcardsubs` is of newer plugins."""

    rolename: str
    acls: tuple[AccessLine, ...] = ()
    allowwildcardsubs: bool = True


class Group(msgspec.Struct, frozen=True):
    """Clients that hold roles together."""

    groupname: str
    clients: tuple[ClientName, ...] = ()
    roles: tuple[RoleName, ...] = ()


class SecurityDocument(msgspec.Struct, frozen=True):
    """All that the plugin holds: its file `dynamic-security.json`, or its lists put together.

    What a file leaves out is the plugin's own default.
    """

    defaultACLAccess: dict[str, bool] = {}  # noqa: N815  the plugin's own word
    clients: tuple[Client, ...] = ()
    groups: tuple[Group, ...] = ()
    roles: tuple[RoleLines, ...] = ()


_PLUGINS_DEFAULTS = {
    "publishClientSend": False,
    "publishClientReceive": True,
    "subscribe": False,
    "unsubscribe": True,
}


def security_document(wanted: Iterable[Entitlement], administrator: User) -> SecurityDocument:
    """What the plugin holds when the broker is as wanted; a broker starts with it."""
    of = sorted(wanted, key=lambda entitlement: entitlement.user)
    return SecurityDocument(
        DEFAULTS,
        clients=tuple(Client(e.user, (RoleName(e.user),), _kept_out(e, administrator)) for e in of),
        roles=tuple(RoleLines(e.user, _lines(_with_administration(e, administrator))) for e in of),
    )


def security_file(wanted: Iterable[Entitlement], administrator: User) -> bytes:
    """The plugin's file for a broker that starts as wanted: `plugin_opt_config_file`."""
    return msgspec.json.format(msgspec.json.encode(security_document(wanted, administrator)), indent=2) + b"\n"


def read_security_file(data: bytes, source: str) -> SecurityDocument:
    """What the plugin's file says. Raises ConfigError naming `source`."""
    try:
        return msgspec.json.decode(data, type=SecurityDocument)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(source, "dynamic security", str(error)) from error


def found(document: SecurityDocument, administrator: User) -> frozenset[Entitlement]:
    """What everybody may do by `document`, with a remark on all that `security_document` would not have written."""
    everybody = _found_for_everybody(document)
    by_user = {} if everybody is None else {EVERYBODY: everybody}
    for client in document.clients:
        one = _found(client, document, administrator)
        if twin := by_user.get(one.user):
            one = Entitlement(one.user, one.rights | twin.rights, one.remarks | twin.remarks | {"stands there twice"})
        by_user[one.user] = one
    return frozenset(by_user.values())


def commands(
    mended: Sequence[Difference], document: SecurityDocument, administrator: User
) -> tuple[tuple[Command, ...], ...]:
    """What makes `document` as wanted, in steps that keep their order; each is safe to repeat.

    The administrator comes last among the users: newer plugins end the link of whoever's rights change. Roles go at
    the end, when nobody holds them any more.
    """
    of_users = [difference for difference in mended if difference.user != EVERYBODY]
    of_users.sort(key=lambda difference: difference.user == administrator)
    steps = [_for_user(difference, administrator) for difference in of_users]
    unheld = {difference.user for difference in of_users if difference.wanted is None}
    if len(of_users) < len(mended):
        steps.insert(0, _for_everybody(document))
        unheld |= set(_stray_roles(document)) - {difference.user for difference in of_users}
    steps += [({"command": "deleteRole", "rolename": name},) for name in sorted(unheld)]
    return tuple(steps)


# An answer that says so is none: the command had been carried out before.
DONE_BEFORE = frozenset({"Role already exists", "Client already exists", "Client not found", "Role not found"})


def _for_everybody(document: SecurityDocument) -> tuple[Command, ...]:
    defaults = [{"acltype": kind, "allow": allow} for kind, allow in DEFAULTS.items()]
    of_all: list[Command] = [{"command": "setDefaultACLAccess", "acls": defaults}]
    for group in document.groups:
        of = {"groupname": group.groupname}
        of_all += [{"command": "removeGroupClient", **of, "username": client.username} for client in group.clients]
        of_all += [{"command": "removeGroupRole", **of, "rolename": role.rolename} for role in group.roles]
    return tuple(of_all)


def _for_user(difference: Difference, administrator: User) -> tuple[Command, ...]:
    user, wanted, stands = difference.user, difference.wanted, difference.found
    gone: Command = {"command": "deleteClient", "username": user}
    if wanted is None:
        return (gone,)
    kept_out = _kept_out(wanted, administrator)
    lines = msgspec.to_builtins(_lines(_with_administration(wanted, administrator)))
    steps: list[Command] = [gone] if stands is not None and stands.remarks else []
    steps += [
        {"command": "createRole", "rolename": user},
        {"command": "createClient", "username": user, "roles": [{"rolename": user}]},
        {"command": "modifyRole", "rolename": user, "acls": lines, "allowwildcardsubs": True},
    ]
    # Whoever the broker did not know had its subscriptions refused: disabling ends its link, so that it asks again.
    if kept_out or stands is None:
        steps.append({"command": "disableClient", "username": user})
    if not kept_out:
        steps.append({"command": "enableClient", "username": user})
    return tuple(steps)


def _kept_out(entitlement: Entitlement, administrator: User) -> bool:
    return not entitlement.rights and entitlement.user != administrator


def _with_administration(entitlement: Entitlement, administrator: User) -> frozenset[Right]:
    return entitlement.rights | ADMINISTRATION if entitlement.user == administrator else entitlement.rights


def _lines(rights: Set[Right]) -> tuple[AccessLine, ...]:
    lines = [AccessLine(_LINE[access], topic, True) for access, topic in sorted(rights)]
    # The default to subscribe to anything does not hold here.
    lines += [AccessLine("subscribeLiteral", ANSWER_TOPIC, True)] * (Right("read", ANSWER_TOPIC) in rights)
    return tuple(lines)


def _found(client: Client, document: SecurityDocument, administrator: User) -> Entitlement:
    user = client.username
    groups = [group for group in document.groups if ClientName(user) in group.clients]
    names = {role.rolename for role in client.roles}.union(*({r.rolename for r in group.roles} for group in groups))
    held = [role for role in document.roles if role.rolename in names]
    lines = {line for role in held for line in role.acls}
    rights = frozenset(
        Right(_ACCESS[line.acltype], line.topic) for line in lines if line.allow and line.acltype in _ACCESS
    )
    plain = Entitlement(user, rights - ADMINISTRATION if user == administrator else rights)
    due = set(_lines(_with_administration(plain, administrator)))

    remarks = [f"{'is given' if line.allow else 'is refused'} {line.acltype} {line.topic}" for line in lines - due]
    remarks += [f"is not given {line.acltype} {line.topic}" for line in due - lines]
    remarks += [f"is in group {group.groupname}" for group in groups]
    if client.roles != (RoleName(user),):
        remarks.append(f"holds the roles {', '.join(sorted(role.rolename for role in client.roles)) or '(none)'}")
    if client.disabled != _kept_out(plain, administrator):
        remarks.append("is disabled" if client.disabled else "is not disabled")
    if not all(role.allowwildcardsubs for role in held):
        remarks.append("may not subscribe with wildcards")
    return Entitlement(user, plain.rights, frozenset(remarks))


def _found_for_everybody(document: SecurityDocument) -> Entitlement | None:
    defaults = _PLUGINS_DEFAULTS | document.defaultACLAccess
    rights = frozenset(Right(access, "#") for kind, access in _ACCESS.items() if defaults[kind])
    remarks = [f"may not {kind}" for kind in ("subscribe", "unsubscribe") if not defaults[kind]]
    remarks += [f"group {group.groupname} is not empty" for group in document.groups if group.clients or group.roles]
    remarks += [f"there is a role {name}, which is no client's own" for name in _stray_roles(document)]
    return Entitlement(EVERYBODY, rights, frozenset(remarks)) if rights or remarks else None


def _stray_roles(document: SecurityDocument) -> list[str]:
    users = {client.username for client in document.clients}
    return sorted(role.rolename for role in document.roles if role.rolename not in users)
