"""Real chains for tests: the embedded one and anvil, each as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_deploy import Deployed, deploy
from gemel.ports import PartyRecord, Role
from gemel.wire.eip712 import Domain
from gemel.wire.identity import Identity
from gemel.wire.types import Address
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
    chain = RunningChain(f"http://127.0.0.1:{port}", process)
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
    """The contracts on a running chain with every party registered; one client for each that sends."""

    chain: RunningChain
    deployed: Deployed
    operator: EvmChain
    coordinator: EvmChain
    custodian: EvmChain
    listener: EvmChain

    @property
    def domain(self) -> Domain:
        """What validators' signatures are bound to."""
        return Domain(self.chain.chain_id, self.deployed.round_registry)

    def client(self, who: Identity | None, *, chain_id: int = CHAIN_ID, first_block: int = 0) -> EvmChain:
        """A further client, to be opened."""
        at, url = self.deployed, self.chain.url
        return EvmChain(
            url, at.device_registry, at.round_registry, who, chain_id, first_block=first_block, poll_s=0.02
        )


def party(who: Identity, role: Role) -> PartyRecord:
    """A party that owns itself."""
    return PartyRecord(who.address, who.address, role, "ab" * 32, active=True)


FUNDED = tuple(each.address for each in (OPERATOR, COORDINATOR, CUSTODIAN, LISTENER, STRANGER))
PARTIES = (
    party(COORDINATOR, Role.COORDINATOR),
    party(CUSTODIAN, Role.CUSTODIAN),
    party(LISTENER, Role.LISTENER),
    *(party(validator, Role.VALIDATOR) for validator in VALIDATORS),
)


@asynccontextmanager
async def open_fleet(chain: RunningChain) -> AsyncIterator[Fleet]:
    """Deploy on a chain that funded FUNDED, register PARTIES, and open a client for each role."""
    deployed = await deploy(chain.url, OPERATOR, chain.chain_id)
    async with AsyncExitStack() as clients:
        senders = [
            await clients.enter_async_context(
                EvmChain(
                    chain.url, deployed.device_registry, deployed.round_registry, who, chain.chain_id, poll_s=0.02
                )
            )
            for who in (OPERATOR, COORDINATOR, CUSTODIAN, LISTENER)
        ]
        for each in PARTIES:
            await senders[0].register(each)
        yield Fleet(chain, deployed, *senders)
