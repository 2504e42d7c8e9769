"""What owners share of their machines' twins: a grant, its bounds, and its times. Pure.

An owner lets a consumer read topics of one machine's twin for a time. A scope has the form that is in
contracts/src/TwinScope.sol, `gemel/v1/<site>/twin/<asset>/<word>`: the word is state, delta, schema or event, or `+`
for these four (and not for backfill, which stands on that level, too). It is looked up among the scopes of the
owner's machines, so there is nothing to parse and no wildcard to escape by. A grant begins and ends by the clock:
nobody sends anything, whoever keeps the broker's rights asks again at `next_change_ms`.

Owner and consumer sign the same grant, and the owner alone that it is over, for the contract
(contracts/src/DataSharing.sol), which counts in seconds: a grant's times are whole seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from eth_hash.auto import keccak

from gemel.errors import ConfigError, Refused
from gemel.wire import topics
from gemel.wire.eip712 import Domain, struct_hash
from gemel.wire.reasons import Reason
from gemel.wire.rights import Right, User, user_name
from gemel.wire.types import Address, Count, Digest, Millis

WORDS = (topics.twin_state, topics.twin_delta, topics.twin_schema, topics.twin_event)
SECOND_MS = 1000
MOST_RIGHTS = 1000  # of one consumer, by grants: what one client holds must fit into one message to the broker

_GRANT_TYPE = "Grant(address owner,address consumer,string scope,uint64 from,uint64 until,uint64 nonce)"
_REVOCATION_TYPE = "Revocation(bytes32 grant)"


class Asset(NamedTuple):
    """A machine by its place in topics."""

    site: str
    name: str


class Grant(msgspec.Struct, frozen=True):
    """An owner lets a consumer read what `scope` says, from a time on until a time."""

    owner: Address
    consumer: Address  # also its name at the broker
    scope: str
    from_ms: Millis
    until_ms: Millis  # from this moment on it opens nothing


class Shares(NamedTuple):
    """What grants open at one moment."""

    rights: Mapping[User, frozenset[Right]]  # by consumer
    refused: tuple[tuple[Grant, Refused], ...]  # those that would be open and open nothing, and why
    next_change_ms: Millis | None  # when a grant begins or ends next; None if none does


def asset_id(asset: Asset) -> Digest:
    """What contracts call a machine: keccak of its twin's topic without the word."""
    return bytes(keccak(f"{topics.ROOT}/{asset.site}/twin/{asset.name}".encode())).hex()


def seconds(at_ms: Millis) -> int:
    """A grant's time as the contract has it. Raises ConfigError for what is no whole second."""
    whole, rest = divmod(at_ms, SECOND_MS)
    if rest:
        raise ConfigError("grant", "from, until", f"whole seconds, not {at_ms} ms")
    return whole


def grant_id(grant: Grant, nonce: Count) -> Digest:
    """What names a grant on chain: its EIP-712 struct hash. Raises ConfigError as `seconds`."""
    return struct_hash(_GRANT_TYPE, *_values(grant, nonce)).hex()


def grant_hash(grant: Grant, nonce: Count, sharing: Domain) -> bytes:
    """The 32 bytes that owner and consumer sign; `nonce` tells two otherwise equal grants apart.

    `sharing` is the domain of the contract DataSharing. Raises ConfigError as `seconds`.
    """
    return sharing.hash(_GRANT_TYPE, *_values(grant, nonce))


def revocation_hash(id_: Digest, sharing: Domain) -> bytes:
    """The 32 bytes that an owner signs to end the grant `id_`, for good."""
    return sharing.hash(_REVOCATION_TYPE, id_)


def _values(grant: Grant, nonce: Count) -> tuple[Address, Address, bytes, int, int, int]:
    scope = bytes(keccak(grant.scope.encode()))
    return grant.owner, grant.consumer, scope, seconds(grant.from_ms), seconds(grant.until_ms), nonce


def scopes(asset: Asset) -> Mapping[str, frozenset[Right]]:
    """Every scope that there is of a machine, and what it opens. Raises ConfigError for names that are no levels."""
    site, name = topics.name(asset.site, "site"), topics.name(asset.name, "asset")
    each = {word(site, name): frozenset({Right("read", word(site, name))}) for word in WORDS}
    return each | {f"{topics.ROOT}/{site}/twin/{name}/+": frozenset().union(*each.values())}


def granted(grant: Grant, owned: Iterable[Asset]) -> frozenset[Right]:
    """What `grant` opens, `owned` being its owner's machines. Raises Refused(out_of_scope)."""
    return _granted(grant, _scopes(owned))


def _granted(grant: Grant, of_owner: Mapping[str, frozenset[Right]]) -> frozenset[Right]:
    try:
        user_name(grant.consumer)
    except ConfigError as error:
        raise Refused(Reason.OUT_OF_SCOPE, str(error)) from None
    if grant.scope not in of_owner:
        raise Refused(Reason.OUT_OF_SCOPE, f"{grant.scope[:80]!a} is no scope of a machine of {grant.owner}")
    return of_owner[grant.scope]


def _scopes(owned: Iterable[Asset]) -> Mapping[str, frozenset[Right]]:
    return {scope: rights for asset in owned for scope, rights in scopes(asset).items()}


def shares(grants: Iterable[Grant], owners: Mapping[Asset, Address], now_ms: Millis) -> Shares:
    """What `grants` open at `now_ms`; what its owner has revoked does not belong among them.

    A consumer gets at most MOST_RIGHTS, of the grants that come first, so that nobody's grants spoil another's.
    """
    owned: defaultdict[Address, list[Asset]] = defaultdict(list)
    for asset, owner in owners.items():
        owned[owner].append(asset)
    opens = {owner: _scopes(assets) for owner, assets in owned.items()}
    rights: dict[User, frozenset[Right]] = {}
    refused: list[tuple[Grant, Refused]] = []
    changes_ms: list[Millis] = []
    for grant in grants:
        changes_ms += [at_ms for at_ms in (grant.from_ms, grant.until_ms) if at_ms > now_ms]
        if grant.from_ms <= now_ms < grant.until_ms:
            try:
                opened = _granted(grant, opens.get(grant.owner, {}))
                rights[grant.consumer] = _added(rights.get(grant.consumer, frozenset()), opened)
            except Refused as refusal:
                refused.append((grant, refusal))
    return Shares(rights, tuple(refused), min(changes_ms, default=None))


def _added(held: frozenset[Right], opened: frozenset[Right]) -> frozenset[Right]:
    together = held | opened
    if len(together) > MOST_RIGHTS:
        raise Refused(Reason.TOO_LARGE, f"with earlier grants {len(together)} rights, {MOST_RIGHTS} at most")
    return together
