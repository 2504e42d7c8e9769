"""Grants of twins between two companies: a file goes to and fro until both have signed it, then anybody hands it in.

    owner      gemel grant propose grant.json bonn/rig-1 --consumer 0x… --until 90d
    consumer   gemel grant accept grant.json
    either     gemel grant submit grant.json

Signing needs no chain: only `chain.json`, which says on which one the grant shall count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec.structs import replace

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import DATA_SHARING
from gemel.errors import ConfigError, Refused
from gemel.ports import GrantRecord, Sent, Sharing
from gemel.wire import topics
from gemel.wire.eip712 import Domain
from gemel.wire.identity import Identity, recover
from gemel.wire.sharing import SECOND_MS, Asset, Grant, grant_hash, grant_id, revocation_hash, scopes
from gemel.wire.types import Address, Count, Digest, Millis, Signature

ALL_WORDS = "+"
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_MOST_BYTES = 10_000
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)

_F = TypeVar("_F", bound="GrantFile | RevocationFile")


class GrantFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A grant on its way: what both sign, for which contract, and who has signed so far."""

    chain_id: Count
    contract: Address
    owner: Address
    consumer: Address
    scope: str
    begins: _Moment
    ends: _Moment
    nonce: Count
    owner_signature: Signature | None = None
    consumer_signature: Signature | None = None

    @property
    def grant(self) -> Grant:
        """As it is signed."""
        return Grant(self.owner, self.consumer, self.scope, _millis(self.begins), _millis(self.ends))

    @property
    def id(self) -> Digest:
        """What it is called on chain. Raises ConfigError for times that are no whole seconds."""
        return grant_id(self.grant, self.nonce)

    def __str__(self) -> str:
        times = f"from {self.begins.isoformat()} until {self.ends.isoformat()}"
        return f"{self.owner} lets {self.consumer} read {ascii(self.scope)[1:-1]} {times}"


class RevocationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a grant is over, signed by its owner."""

    chain_id: Count
    contract: Address
    grant: Digest
    owner_signature: Signature


def read(path: Path, kind: type[_F], place: ChainPlace) -> _F:
    """A file that somebody else may have made. Raises ConfigError, also where it is for another chain or contract."""
    try:
        with path.open("rb") as file:
            content = msgspec.json.decode(file.read(_MOST_BYTES), type=kind)
    except OSError as error:
        raise ConfigError(str(path), "file", f"a readable file ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), kind.__name__, str(error)) from error
    ours = place.domain(DATA_SHARING)
    if Domain(content.chain_id, content.contract) != ours:
        known = f"{ours.registry} on chain {ours.chain_id}, as chain.json says"
        raise ConfigError(str(path), "contract", f"{known}, not {content.contract} on chain {content.chain_id}")
    return content


def write(path: Path, content: GrantFile | RevocationFile, *, new: bool) -> None:
    """Write it, over nothing where it shall be `new`. Raises ConfigError."""
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    try:
        if new:
            with path.open("xb") as file:
                file.write(data)
        else:
            scratch = path.with_name(path.name + ".new")
            scratch.write_bytes(data)
            scratch.replace(path)
    except FileExistsError:
        raise ConfigError(str(path), "file", "a new one; there is one already") from None
    except OSError as error:
        raise ConfigError(str(path), "file", f"a path that can be written ({error.strerror})") from error


def propose(
    place: ChainPlace,
    owner: Identity,
    consumer: Address,
    scope: str,
    begins: datetime,
    ends: datetime,
    nonce: Count,
) -> GrantFile:
    """A grant that its owner has signed. Raises ConfigError for times out of order, or a consumer that is none."""
    domain = place.domain(DATA_SHARING)
    address_of(consumer, "consumer")
    if ends <= begins:
        raise ConfigError("grant", "until", f"after {begins.isoformat()}, when it begins; not {ends.isoformat()}")
    proposed = GrantFile(domain.chain_id, domain.registry, owner.address, consumer, scope, begins, ends, nonce)
    return replace(proposed, owner_signature=owner.sign(_hash(proposed)).hex())


def accept(file: GrantFile, consumer: Identity, now: datetime) -> GrantFile:
    """The same, signed by its consumer, too. Raises ConfigError: not for this key, over, or not the owner's word."""
    if file.consumer != consumer.address:
        raise ConfigError("grant", "key", f"the key of {file.consumer}; this is {consumer.address}'s")
    if file.ends <= now:
        raise ConfigError("grant", "ends", f"a grant that is not over; this one ended {file.ends.isoformat()}")
    _require_signed(file, file.owner, file.owner_signature, "owner_signature")
    return replace(file, consumer_signature=consumer.sign(_hash(file)).hex())


async def submit(sharing: Sharing, file: GrantFile) -> Sent:
    """Hand it in. Raises ConfigError where a signature is missing or wrong, ChainReverted, ChainUnavailable."""
    owners = _require_signed(file, file.owner, file.owner_signature, "owner_signature")
    consumers = _require_signed(file, file.consumer, file.consumer_signature, "consumer_signature")
    return await sharing.grant(file.grant, file.nonce, owners, consumers)


def revocation(place: ChainPlace, owner: Identity, id_: Digest) -> RevocationFile:
    """That the grant is over, for good. Whether it is this owner's only the chain knows."""
    domain = place.domain(DATA_SHARING)
    if not re.fullmatch(r"[0-9a-f]{64}", id_):
        raise ConfigError("revocation", "ID", f"64 hex digits, as gemel grants shows them, not {id_!r}")
    return RevocationFile(domain.chain_id, domain.registry, id_, owner.sign(revocation_hash(id_, domain)).hex())


def asset_of(twin: str) -> Asset:
    """A machine by SITE/ASSET. Raises ConfigError."""
    site, slash, name = twin.partition("/")
    if not slash:
        raise ConfigError("grant", repr(twin), "SITE/ASSET")
    return Asset(topics.name(site, "site"), topics.name(name, "asset"))


def scope_of(twin: str) -> str:
    """SITE/ASSET (all that is said of a twin) or SITE/ASSET/WORD as a scope. Raises ConfigError."""
    machine, _, word = twin.rpartition("/") if twin.count("/") > 1 else (twin, "", ALL_WORDS)
    asset = asset_of(machine)
    scope = f"{topics.ROOT}/{asset.site}/twin/{asset.name}/{word}"
    if scope not in scopes(asset):
        raise ConfigError("grant", repr(twin), "state, delta, schema, event or + behind SITE/ASSET/")
    return scope


def address_of(text: str, what: str) -> Address:
    """`text` if it is an address. Raises ConfigError."""
    if not _ADDRESS.fullmatch(text):
        raise ConfigError("grant", what, f"an address, 0x and 40 hex digits in lower case, not {text!r}")
    return text


def moment(text: str, since: datetime) -> datetime:
    """ISO 8601 with its zone, or a duration from `since` on (90d, 12h), in whole seconds. Raises ConfigError."""
    if parts := _DURATION.fullmatch(text):
        try:
            then = since + timedelta(**{_UNITS[parts[2]]: int(parts[1])})
        except OverflowError:
            then = _LATEST
        return then.replace(microsecond=0)
    allowed = "ISO 8601 with its zone (2027-01-31T12:00:00Z), or a duration such as 90d, 12h, 30m"
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError("grant", repr(text), allowed) from None
    if then.tzinfo is None:
        raise ConfigError("grant", repr(text), allowed)
    return then.astimezone(UTC).replace(microsecond=0)


def state(record: GrantRecord, owners: Mapping[Asset, Address], now_ms: Millis) -> str:
    """open, to begin, over, revoked, or void: the machine is somebody else's."""
    if record.revoked_ms is not None:
        return "revoked"
    if now_ms >= record.grant.until_ms:
        return "over"
    _, _, site, _, name, _ = record.grant.scope.split("/")  # the contract takes scopes of this form only
    if owners.get(Asset(site, name)) != record.grant.owner:
        return "void"
    return "open" if now_ms >= record.grant.from_ms else "to begin"


class GrantLine(msgspec.Struct, frozen=True):
    """A grant as `gemel grants` shows it."""

    id: Digest
    state: str
    owner: Address
    consumer: Address
    scope: str
    begins: datetime
    ends: datetime

    def __str__(self) -> str:
        times = f"{self.begins:%Y-%m-%dT%H:%M:%SZ} to {self.ends:%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.id}  {self.state:8}  {self.scope}  {self.owner} to {self.consumer}  {times}"


async def listed(sharing: Sharing, now_ms: Millis) -> Sequence[GrantLine]:
    """Every grant in the order of entry, with its state. Raises ChainUnavailable."""
    owners = await sharing.owners()
    return [
        GrantLine(
            record.id,
            state(record, owners, now_ms),
            record.grant.owner,
            record.grant.consumer,
            record.grant.scope,
            _datetime(record.grant.from_ms),
            _datetime(record.grant.until_ms),
        )
        for record in await sharing.grants()
    ]


def _hash(file: GrantFile) -> bytes:
    return grant_hash(file.grant, file.nonce, Domain(file.chain_id, file.contract))


def _require_signed(file: GrantFile, signer: Address, signature: Signature | None, key: str) -> Signature:
    if signature is None:
        raise ConfigError("grant", key, f"the signature of {signer}; there is none yet")
    try:
        signed = recover(_hash(file), bytes.fromhex(signature))
    except Refused as error:
        raise ConfigError("grant", key, f"the signature of {signer} ({error.detail})") from error
    if signed != signer:
        raise ConfigError("grant", key, f"the signature of {signer} over just this; it is not")
    return signature


def _millis(at: datetime) -> Millis:
    return round(at.timestamp() * SECOND_MS)


def _datetime(at_ms: Millis) -> datetime:
    return datetime.fromtimestamp(min(at_ms, _millis(_LATEST)) / SECOND_MS, UTC)
