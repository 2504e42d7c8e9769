"""What every client of the broker may do, as a whole: what is wanted, what is found, and each difference. Pure.

`gemel.wire.rights` says what a party may do, `gemel.wire.sharing` what owners granted; this file adds both up, less
those who are suspended. Whoever changes rights at the broker (ports.BrokerRights) and whoever audits them compare the
same two sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Literal

import msgspec

from gemel.errors import ConfigError
from gemel.wire.rights import Party, Right, User, fleet_parties, rights, user_name
from gemel.wire.trust import Trust

EVERYBODY = ""  # what the broker lets any client do; no user can be called so


class Entitlement(msgspec.Struct, frozen=True):
    """Everything that one user may do at the broker. No rights at all: the broker knows it, and keeps it out.

    `remarks` say what else was found about it that nobody wants: a refusal that takes rights away, a group.
    """

    user: User
    rights: frozenset[Right]
    remarks: frozenset[str] = frozenset()


class Difference(msgspec.Struct, frozen=True):
    """Where the broker is not as wanted, for one user. `str()` says all of it in one line."""

    wanted: Entitlement | None
    found: Entitlement | None

    @property
    def user(self) -> User:
        """Whom it concerns; EVERYBODY where it is no single user."""
        either = self.wanted or self.found
        assert either is not None
        return either.user

    @property
    def kind(self) -> Literal["missing", "surplus", "changed"]:
        """Unknown to the broker, known to the broker only, or not the same."""
        if self.found is None:
            return "missing"
        return "surplus" if self.wanted is None else "changed"

    def __str__(self) -> str:
        wanted = self.wanted.rights if self.wanted else frozenset()
        found = self.found.rights if self.found else frozenset()
        said = [f"may {access} {topic_filter}, unwanted" for access, topic_filter in sorted(found - wanted)]
        said += [f"may not {access} {topic_filter}" for access, topic_filter in sorted(wanted - found)]
        said += sorted(self.found.remarks) if self.found else []
        line = f"{self.kind}: {self.user or 'everybody'}: {'; '.join(said) or 'without rights'}"
        # Names at a broker may be anything, and this goes to a terminal.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def entitlements(
    trust: Trust, plant: Iterable[Party], *, shared: Mapping[User, Set[Right]], suspended: Set[User]
) -> frozenset[Entitlement]:
    """What is wanted: the rights of the fleet's parties and the plant's, and `shared` by consumer (sharing.Shares).

    Whoever is suspended keeps no right. Raises ConfigError where a user comes twice or is none.
    """
    held: dict[User, frozenset[Right]] = {}
    for party in (*fleet_parties(trust), *plant):
        if party.user in held:
            raise ConfigError("broker rights", party.user, "each user once, with one role")
        held[party.user] = frozenset(rights(party, trust))
    for consumer, more in shared.items():
        held[consumer] = held.get(consumer, frozenset()) | more
    wanted = (Entitlement(user, frozenset() if user in suspended else its) for user, its in held.items())
    return checked(frozenset(wanted))


def differences(wanted: Set[Entitlement], found: Set[Entitlement]) -> tuple[Difference, ...]:
    """Each user for whom the two are not the same, by name. Empty: the broker is exactly as wanted."""
    by_wanted, by_found = {w.user: w for w in wanted}, {f.user: f for f in found}
    users = sorted(by_wanted.keys() | by_found.keys())
    pairs = (Difference(by_wanted.get(user), by_found.get(user)) for user in users)
    return tuple(pair for pair in pairs if pair.wanted != pair.found)


def checked(wanted: frozenset[Entitlement]) -> frozenset[Entitlement]:
    """`wanted`, if a broker can be told so: each user once and one by name, and no filter outside what Gemel gives.

    Raises ConfigError.
    """
    seen: set[str] = set()
    for entitlement in wanted:
        if user_name(entitlement.user) in seen:
            raise ConfigError("broker rights", entitlement.user, "each user once")
        seen.add(entitlement.user)
        for _, topic_filter in entitlement.rights:
            _check_filter(topic_filter)
    return wanted


# A wildcard is a whole level and never the first, `#` the last. `$` would reach the broker's own topics, and newer
# brokers put names in the place of %c and %u.
_LEVEL = r"(?:\+|[^+#/\x00-\x1f\x7f\ud800-\udfff]*)"
_FILTER = re.compile(rf"(?![$+#/]|.*%[cu])[^+#/\x00-\x1f\x7f\ud800-\udfff]+(?:/{_LEVEL})*(?:/#)?")
_LONGEST_BYTES = 65_535  # MQTT 5.0, section 1.5.4


def _check_filter(topic_filter: str) -> None:
    if not _FILTER.fullmatch(topic_filter) or len(topic_filter.encode()) > _LONGEST_BYTES:
        allowed = "a topic filter that begins with a name, wildcards as whole levels, without $, %c and %u"
        raise ConfigError("broker rights", ascii(topic_filter[:80]), allowed)
