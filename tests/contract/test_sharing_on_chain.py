"""The Sharing and Suspensions ports on both nodes: the embedded chain and anvil."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace
from typer.testing import CliRunner

from gemel.__main__ import app
from gemel.adapters import evm_sharing
from gemel.adapters.contract_abi import DATA_SHARING, TRUST
from gemel.adapters.evm_sharing import EvmSharing
from gemel.adapters.evm_suspensions import EvmSuspensions
from gemel.adapters.secret_files import create_private
from gemel.errors import ChainReverted, ConfigError
from gemel.ports import GrantRecord, Role
from gemel.wire import topics
from gemel.wire.identity import Identity
from gemel.wire.sharing import Asset, Grant, asset_id, grant_hash, grant_id, revocation_hash
from gemel.wire.types import Signature
from tests.support.chains import FUNDED, TERMS, Fleet, open_fleet, running_chain
from tests.support.parties import identity
from tests.support.trust_reports import report_worst

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNER, CONSUMER, OTHER = identity(31), identity(32), identity(33)
UNTIL_MS = 4_000_000_000_000  # far away
_numbers = count()


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    terms = replace(TERMS, trust_step=1_000_000)  # one result says it all
    async with (
        running_chain(tmp_path_factory.mktemp("chain"), FUNDED, request.param) as chain,
        open_fleet(chain, terms=terms) as opened,
    ):
        yield opened


@dataclass
class Shop:
    """A machine of OWNER's that no other test has, and what is said of it."""

    fleet: Fleet
    asset: Asset = field(default_factory=lambda: Asset("bonn", f"rig-{next(_numbers)}"))

    @property
    def operator(self) -> EvmSharing:
        return EvmSharing(self.fleet.operator.calls)

    @property
    def anybody(self) -> EvmSharing:
        return EvmSharing(self.fleet.custodian.calls)

    @property
    def terms(self) -> Grant:
        return Grant(OWNER.address, CONSUMER.address, topics.twin_state(*self.asset), 1_000, UNTIL_MS)

    def signed(self, who: Identity, grant: Grant, nonce: int = 0) -> Signature:
        return who.sign(grant_hash(grant, nonce, self.fleet.place.domain(DATA_SHARING))).hex()

    async def enter(self, grant: Grant, nonce: int = 0) -> str:
        await self.anybody.grant(grant, nonce, self.signed(OWNER, grant, nonce), self.signed(CONSUMER, grant, nonce))
        return grant_id(grant, nonce)

    def ended(self, who: Identity, id_: str) -> Signature:
        return who.sign(revocation_hash(id_, self.fleet.place.domain(DATA_SHARING))).hex()

    async def found(self) -> list[GrantRecord]:
        return [
            r for r in await self.anybody.grants() if r.grant.scope.startswith(topics.twin_state(*self.asset)[:-5])
        ]


@pytest_asyncio.fixture(loop_scope="module")
async def shop(fleet: Fleet) -> Shop:
    shop = Shop(fleet)
    await shop.operator.assign(shop.asset, OWNER.address)
    return shop


async def test_grant_that_both_signed_stands_under_the_id_that_we_computed(shop: Shop) -> None:
    id_ = await shop.enter(shop.terms)
    assert await shop.found() == [GrantRecord(id_, shop.terms, None)]


async def test_revoked_grant_stands_with_the_time_of_its_end(shop: Shop) -> None:
    id_ = await shop.enter(shop.terms)
    sent = await shop.anybody.revoke(id_, shop.ended(OWNER, id_))
    header = await shop.fleet.operator.calls.node.header(sent.block)
    assert header is not None
    assert await shop.found() == [GrantRecord(id_, shop.terms, header.timestamp_s * 1000)]
    with pytest.raises(ChainReverted, match="AlreadyRevoked"):
        await shop.anybody.revoke(id_, shop.ended(OWNER, id_))


async def test_nobody_but_the_owner_revokes(shop: Shop) -> None:
    id_ = await shop.enter(shop.terms)
    for stranger in (CONSUMER, OTHER):
        with pytest.raises(ChainReverted, match="BadSignature"):
            await shop.anybody.revoke(id_, shop.ended(stranger, id_))


async def test_same_grant_is_entered_once_for_each_nonce(shop: Shop) -> None:
    await shop.enter(shop.terms)
    with pytest.raises(ChainReverted, match="GrantExists"):
        await shop.enter(shop.terms)
    await shop.enter(shop.terms, nonce=2**53)
    assert len(await shop.found()) == 2


async def test_grant_without_both_signatures_is_refused(shop: Shop) -> None:
    terms = shop.terms
    owner, consumer, other = (shop.signed(who, terms) for who in (OWNER, CONSUMER, OTHER))
    for owners, consumers in ((owner, other), (other, consumer), (consumer, owner)):
        with pytest.raises(ChainReverted, match="BadSignature"):
            await shop.anybody.grant(terms, 0, owners, consumers)
    with pytest.raises(ChainReverted, match="BadSignature"):
        await shop.anybody.grant(terms, 1, owner, consumer)


async def test_nobody_grants_what_is_not_his(shop: Shop) -> None:
    stolen = replace(shop.terms, owner=OTHER.address)
    with pytest.raises(ChainReverted, match="NotOwner") as refused:
        await shop.anybody.grant(stolen, 0, shop.signed(OTHER, stolen), shop.signed(CONSUMER, stolen))
    assert refused.value.values["asset"] == asset_id(shop.asset)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"scope": "gemel/v1/bonn/twin/+/state"}, "ScopeInvalid"),
        ({"scope": "#"}, "ScopeInvalid"),
        ({"from_ms": UNTIL_MS}, "TimesOutOfOrder"),
        ({"until_ms": 2_000}, "TimesOutOfOrder"),
    ],
)
async def test_grant_that_opens_nothing_or_too_much_is_refused(
    shop: Shop, changed: dict[str, object], error: str
) -> None:
    with pytest.raises(ChainReverted, match=error):
        await shop.enter(replace(shop.terms, **changed))


async def test_grant_with_parts_of_seconds_is_refused_before_it_is_sent(shop: Shop) -> None:
    grant = replace(shop.terms, until_ms=UNTIL_MS + 1)
    with pytest.raises(ConfigError, match="whole seconds"):
        await shop.anybody.grant(grant, 0, "00" * 65, "00" * 65)


async def test_grants_come_in_pages_in_the_order_of_their_entry(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await shop.enter(shop.terms, nonce) for nonce in range(5)]
    for page in (1, 2, 5, 200):
        monkeypatch.setattr(evm_sharing, "_PAGE", page)
        assert [record.id for record in await shop.found()] == ids


async def test_owners_are_told_by_name_and_the_last_one_counts(shop: Shop) -> None:
    reader, asset = shop.anybody, shop.asset
    assert (await reader.owners())[asset] == OWNER.address
    await shop.operator.assign(asset, OTHER.address)
    assert (await reader.owners())[asset] == OTHER.address  # read on from where it was left
    assert (await shop.anybody.owners())[asset] == OTHER.address  # and from the beginning


async def test_only_the_operator_assigns(shop: Shop) -> None:
    with pytest.raises(ChainReverted, match="AccessControlUnauthorizedAccount"):
        await shop.anybody.assign(shop.asset, OTHER.address)


async def test_owner_in_a_block_that_was_replaced_is_forgotten(shop: Shop) -> None:
    if shop.fleet.chain.kind != "anvil":
        return  # the embedded chain has one block producer and never replaces a block
    reader, chain = shop.anybody, shop.fleet.chain
    for settled in (False, True):
        snapshot = await chain.rpc("evm_snapshot")
        await shop.operator.assign(shop.asset, OTHER.address)
        assert (await reader.owners())[shop.asset] == OTHER.address
        await chain.rpc("evm_revert", snapshot)
        assert (await reader.owners())[shop.asset] == OWNER.address
        if not settled:
            await chain.rpc("anvil_mine", "0x80")  # what stands is settled now
            assert (await reader.owners())[shop.asset] == OWNER.address


async def test_device_whose_score_fell_below_the_floor_is_suspended(fleet: Fleet) -> None:
    devices = [identity(number) for number in (61, 62)]
    for device in devices:
        await fleet.register(device, Role.AGENT)
    suspensions = EvmSuspensions(fleet.custodian.calls)
    addresses = [device.address for device in devices]
    assert await suspensions.below_floor(addresses) == frozenset()
    assert await suspensions.below_floor([]) == frozenset()
    await report_worst(fleet, addresses[1])
    assert await suspensions.below_floor(addresses) == {addresses[1]}
    assert await fleet.operator.calls.call(TRUST, "isSuspended", addresses[1])


# --- the commands --------------------------------------------------------------------------------


async def gemel(*arguments: object) -> str:
    """A command as a person types it, in a thread: it has an event loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_two_companies_grant_and_revoke_by_files(fleet: Fleet, tmp_path: Path) -> None:
    for name, number in (("owner", 31), ("consumer", 32), ("operator", 4)):
        secret = msgspec.json.encode({"identity": f"{number:064x}", "box": f"{number:064x}"})
        create_private(tmp_path / f"{name}.json", secret, "key file")
    (tmp_path / "chain.json").write_bytes(msgspec.json.encode(fleet.place))
    grant, revocation = tmp_path / "grant.json", tmp_path / "revocation.json"

    def by(name: str) -> list[object]:
        return ["--key", tmp_path / f"{name}.json", "--fleet", tmp_path]

    await gemel("assign", "bonn/press", OWNER.address, *by("operator"))
    times = ("--from", "2020-01-01T00:00:00Z", "--until", "2099-01-01T00:00:00Z")
    await gemel("grant", "propose", grant, "bonn/press", "--consumer", CONSUMER.address, *times, *by("owner"))
    said = await gemel("grant", "accept", grant, *by("consumer"))
    assert f"{OWNER.address} lets {CONSUMER.address} read gemel/v1/bonn/twin/press/+" in said
    await gemel("grant", "submit", grant, *by("operator"))

    (line,) = [
        line
        for line in msgspec.json.decode(await gemel("grants", "--fleet", tmp_path, "--json"))
        if "press" in line["scope"]
    ]
    assert (line["state"], line["ends"]) == ("open", "2099-01-01T00:00:00Z")
    await gemel("revoke", "sign", revocation, line["id"], *by("owner"))
    await gemel("revoke", "submit", revocation, *by("operator"))
    table = await gemel("grants", "--fleet", tmp_path)
    assert f"{line['id']}  revoked   gemel/v1/bonn/twin/press/+" in table

    again = await asyncio.to_thread(
        CliRunner().invoke, app, ["grant", "submit", str(grant), *map(str, by("operator"))]
    )
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == f"gemel: grant reverted: GrantExists(id={line['id']})\n"
