"""Real chains for tests: the embedded one and anvil, each as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from gemel.adapters.chain_place import ChainPlace
from gemel.adapters.contract_abi import ELECTION, QUALITY_VOTES
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import TOKEN, NetworkTerms, deploy
from gemel.adapters.evm_elections import EvmElections
from gemel.ports import PartyRecord, Role
from gemel.wire.eip712 import Domain
from gemel.wire.electorate import Electorate, Member
from gemel.wire.identity import Identity
from gemel.wire.registration import prove_possession
from gemel.wire.types import Address, Signature
from tests.support.parties import COORDINATOR, CUSTODIAN, LISTENER, VALIDATORS, identity
from tests.support.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
ANVIL = REPOSITORY / "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
CHAIN_ID = 31337
OPERATOR, STRANGER = identity(4), identity(5)


def require(tool: Path) -> None:
    """Skip where a tool from `npm ci` in contracts/ is absent."""
    if not tool.exists():
        pytest.skip(f"{tool.name} is absent; `npm ci` in contracts/ installs it")


@dataclass
class RunningChain:
    """A node's process and where it answers."""

    url: str
    process: asyncio.subprocess.Process
    chain_id: int = CHAIN_ID
    kind: str = "embedded"

    async def rpc(self, method: str, *parameters: object) -> object:
        """A raw request; the result, or an AssertionError."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        async with aiohttp.ClientSession() as session, session.post(self.url, json=body) as answer:
            document = await answer.json()
        assert "result" in document, document
        return document["result"]

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """SIGTERM, where it still runs."""
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


async def start_embedded(db: Path, funded: Sequence[Address], port: int = 0) -> RunningChain:
    """Start the embedded chain on the file `db`, founded with `funded` if it is new."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "gemel.embedded.chain", "--db", str(db), "--port", str(port)],
        *["--chain-id", str(CHAIN_ID), "--alloc", ",".join(funded)],
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    word, url = (await process.stdout.readline()).decode().split()
    assert word == "ready"
    return RunningChain(url, process)


async def start_anvil(funded: Sequence[Address]) -> RunningChain:
    """Start anvil with the same addresses funded; it keeps nothing."""
    require(ANVIL)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *[str(ANVIL), "--port", str(port), "--chain-id", str(CHAIN_ID), "--quiet", "--accounts", "1"],
        stdout=asyncio.subprocess.DEVNULL,
    )
    chain = RunningChain(f"http://127.0.0.1:{port}", process, kind="anvil")
    for _ in range(200):
        try:
            await chain.rpc("eth_chainId")
            break
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)
    for address in funded:
        await chain.rpc("anvil_setBalance", address, hex(10**24))
    return chain


@asynccontextmanager
async def running_chain(
    folder: Path, funded: Sequence[Address], kind: str = "embedded"
) -> AsyncIterator[RunningChain]:
    """A chain (`embedded` or `anvil`) that ends with the context."""
    chain = await (start_anvil(funded) if kind == "anvil" else start_embedded(folder / "chain.db", funded))
    try:
        yield chain
    finally:
        await chain.end()


@dataclass
class Fleet:
    """The contracts on a running chain with every party registered and elected; one client for each that sends.

    The operator is administrator still: what waits for a delay in a plant, a test does at once.
    """

    chain: RunningChain
    place: ChainPlace
    operator: EvmChain
    coordinator: EvmChain
    custodian: EvmChain
    listener: EvmChain
    validators: tuple[EvmChain, ...]

    @property
    def domain(self) -> Domain:
        """What validators' signatures are bound to."""
        return self.place.rounds

    def client(self, who: Identity | None, **changes: Any) -> EvmChain:
        """A further client, to be opened; `changes` are fields of the place to lie about."""
        return EvmChain(replace(self.place, **changes), who, poll_s=0.02)

    async def register(self, who: Identity, role: Role, *, owner: Address | None = None) -> PartyRecord:
        """Enter a party that owns itself, unless `owner` is said."""
        record = party(who, role) if owner is None else replace(party(who, role), owner=owner)
        await self.operator.register(record, proof_of(who, record, self.place))
        return record

    async def electorate(self) -> Electorate:
        """Who sits now, by the quorum of the test network."""
        epoch = await self.operator.epoch()
        addresses, weights = await self.operator.calls.call(ELECTION, "seatsAt", epoch)
        seats = zip(addresses, weights, strict=True)
        return Electorate(epoch, TERMS.quorum_part, tuple(Member(a, BOX, weight) for a, weight in seats))


def party(who: Identity, role: Role) -> PartyRecord:
    """A party that owns itself."""
    return PartyRecord(who.address, who.address, role, BOX, active=True)


def proof_of(who: Identity, record: PartyRecord, place: ChainPlace) -> Signature:
    """That `who` holds the key of `record`."""
    return prove_possession(who, place.devices, owner=record.owner, role=record.role, box=record.box)


BOX = "ab" * 32
SENDERS = (OPERATOR, COORDINATOR, CUSTODIAN, LISTENER, *VALIDATORS)
FUNDED = tuple(each.address for each in (*SENDERS, STRANGER))
ROLES = {COORDINATOR: Role.COORDINATOR, CUSTODIAN: Role.CUSTODIAN, LISTENER: Role.LISTENER}
PARTIES = tuple((who, role) for who, role in (*ROLES.items(), *((v, Role.VALIDATOR) for v in VALIDATORS)))
STAKES = (500, 300, 200)  # whole tokens, by validator: of 1,000 in all
TERMS = NetworkTerms(quorum_part=600_000)  # the first and any other, or nobody


@asynccontextmanager
async def open_fleet(
    chain: RunningChain,
    *,
    terms: NetworkTerms = TERMS,
    stakes: Sequence[int] = STAKES,
    validators: Sequence[Identity] = VALIDATORS,
) -> AsyncIterator[Fleet]:
    """Deploy on a chain that funded all of them, register everybody, elect the validators, open a client for each."""
    tokens = {validator.address: stake for validator, stake in zip(validators, stakes, strict=True)}
    place = await deploy(
        chain.url,
        OPERATOR,
        chain.chain_id,
        terms=terms,
        tokens=tokens | {OPERATOR.address: 1000},
        administrators=(OPERATOR.address,),
    )
    async with AsyncExitStack() as clients:
        senders = (OPERATOR, COORDINATOR, CUSTODIAN, LISTENER, *validators)
        opened = [await clients.enter_async_context(EvmChain(place, who, poll_s=0.02)) for who in senders]
        fleet = Fleet(chain, place, *opened[:4], tuple(opened[4:]))
        for who, role in (*ROLES.items(), *((each, Role.VALIDATOR) for each in validators)):
            await fleet.register(who, role)
        scorer = await fleet.operator.calls.call(ELECTION, "SCORER_ROLE")
        await fleet.operator.calls.send(ELECTION, "grantRole", scorer, place.contracts[QUALITY_VOTES])
        for client, stake in zip(fleet.validators, stakes, strict=True):
            await EvmElections(client.calls).stake(stake * TOKEN)
        await EvmElections(fleet.operator.calls).close_epoch()
        yield fleet
