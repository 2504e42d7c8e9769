"""Founding a fleet on a chain that is not ours: who pays for gas, and what is said when nobody can."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from gemel.adapters import key_files
from gemel.adapters.evm_node import EvmNode
from gemel.adapters.key_files import Keys
from gemel.console.founding import create_keys, found
from gemel.console.funding import ROUND_GAS, fund
from gemel.errors import ConfigError
from gemel.ports import Role
from gemel.wire.identity import Identity
from tests.support.chains import CHAIN_ID, RunningChain, start_anvil
from tests.support.plans import plan_of

# The first account of every development node: its key is printed at each start and guards nothing.
DEVELOPMENT_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
SERVICES = {"coordinator": Role.COORDINATOR, "custodian": Role.CUSTODIAN, "listener": Role.LISTENER}
SERVICES |= dict.fromkeys(("validator-1", "validator-2", "validator-3"), Role.VALIDATOR)


@pytest_asyncio.fixture
async def anvil() -> AsyncIterator[RunningChain]:
    node = await start_anvil([])
    yield node
    await node.end()


@pytest.fixture
def funder(tmp_path: Path) -> Identity:
    path = tmp_path / "funder.json"
    path.write_text(json.dumps({"identity": DEVELOPMENT_KEY, "box": "11" * 32}))
    path.chmod(0o600)
    return key_files.load(path).identity


async def balances(node: RunningChain, keys: dict[str, Keys]) -> dict[str, int]:
    async with EvmNode(node.url) as client:
        return {name: await client.balance(key.identity.address) for name, key in keys.items()}


@pytest.mark.anvil
async def test_funder_sends_each_party_what_its_rounds_cost_and_the_fleet_is_founded(
    tmp_path: Path, anvil: RunningChain, funder: Identity
) -> None:
    keys = create_keys(tmp_path, plan_of())
    await found(tmp_path, plan_of(rpc_url=anvil.url), keys, funder=funder, rounds=3)
    assert (tmp_path / "trust.json").exists()
    held = await balances(anvil, keys)
    price = held["coordinator"] / (3 * ROUND_GAS[Role.COORDINATOR])
    assert price > 0
    for name, role in SERVICES.items():
        rounds = 3 * ROUND_GAS[role] * price
        # what a validator was given to stake with, and did not use, is its own
        assert (held[name] > rounds) if role == Role.VALIDATOR else (held[name] == rounds), name
    assert held["operator"] > 0  # what founding may use was enough
    assert not any(held[agent.name] for agent in plan_of().agents)  # agents send nothing


@pytest.mark.anvil
async def test_accounts_that_can_pay_are_left_alone(tmp_path: Path, anvil: RunningChain, funder: Identity) -> None:
    keys = create_keys(tmp_path, plan_of())
    rich, poor = keys["coordinator"].identity.address, keys["custodian"].identity.address
    await anvil.rpc("anvil_setBalance", rich, hex(10**18))
    await fund(anvil.url, CHAIN_ID, {"rich": (rich, 1000), "poor": (poor, 1000)}, funder)
    held = await balances(anvil, keys)
    assert held["coordinator"] == 10**18
    assert held["custodian"] > 0


@pytest.mark.anvil
async def test_without_a_funder_every_account_that_cannot_pay_is_named_with_the_amount(
    tmp_path: Path, anvil: RunningChain
) -> None:
    keys = create_keys(tmp_path, plan_of())
    await anvil.rpc("anvil_setBalance", keys["listener"].identity.address, hex(10**18))
    with pytest.raises(ConfigError, match="accounts that can pay for gas, or a funder") as refused:
        await found(tmp_path, plan_of(rpc_url=anvil.url), keys)
    for name in ("operator", *SERVICES):
        named = f"{name} {keys[name].identity.address} lacks 0.0" in str(refused.value)
        assert named == (name != "listener")
    assert not (tmp_path / "trust.json").exists()


@pytest.mark.anvil
async def test_funder_that_cannot_pay_for_all_is_named_and_sends_nothing(tmp_path: Path, anvil: RunningChain) -> None:
    keys = create_keys(tmp_path, plan_of())
    funder = keys["gateway-1"].identity
    await anvil.rpc("anvil_setBalance", funder.address, hex(10**15))
    with pytest.raises(ConfigError, match=rf"funder: .*{funder.address} holds 0\.001000 and needs 0\.1"):
        await found(tmp_path, plan_of(rpc_url=anvil.url), keys, funder=funder)
    held = await balances(anvil, keys)
    assert held.pop("gateway-1") == 10**15
    assert not any(held.values())


async def test_where_gas_is_free_nobody_needs_anything() -> None:
    """As with Besu's --min-gas-price=0. No development node offers that: this one is our own, and only reads."""
    block = dict.fromkeys(("hash", "parentHash"), "0x" + "00" * 32)
    block |= {"number": "0x1", "timestamp": "0x1", "baseFeePerGas": "0x0"}
    answers = {"eth_chainId": hex(CHAIN_ID), "eth_getBlockByNumber": block, "eth_maxPriorityFeePerGas": "0x0"}
    answers["eth_getBalance"] = "0x0"

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": answers[asked["method"]]})

    application = web.Application()
    application.router.add_post("/", answer)
    async with TestServer(application) as server:
        await fund(str(server.make_url("/")), CHAIN_ID, {"coordinator": ("0x" + "11" * 20, 10**9)}, None)
