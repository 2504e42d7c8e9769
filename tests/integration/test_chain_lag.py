"""How far a service is behind the chain, as its /metrics endpoint says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import tomli_w

from gemel.adapters.evm_chain import EvmChain
from gemel.console.fleet_files import CHAIN_FILE, KEYS_FOLDER, POLICY_FILE, TRUST_FILE, read_place
from gemel.console.founding import create_keys, found
from gemel.wire.types import sha256
from tests.support.brokers import embedded_broker
from tests.support.chains import running_chain
from tests.support.plans import POLICY, plan_of
from tests.support.ports import free_port
from tests.support.services import Service, running
from tests.support.voters import approve

WAIT_S = 60
M0 = sha256(b"M0")


async def lag_is(port: int, holds: Callable[[float], bool]) -> float:
    """The metric once it `holds`; it must be there from the start."""
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            (value,) = [float(line.split()[1]) for line in lines if line.startswith("gemel_chain_lag_blocks ")]
            if holds(value):
                return value
            await asyncio.sleep(0.05)


async def test_listener_that_cannot_announce_an_approval_lags_until_it_can(tmp_path: Path) -> None:
    keys = create_keys(tmp_path, plan_of())
    async with AsyncExitStack() as opened:
        node = await opened.enter_async_context(running_chain(tmp_path, [k.identity.address for k in keys.values()]))
        plan = plan_of(rpc_url=node.url)
        await found(tmp_path, plan, keys)
        place = read_place(tmp_path)
        broker_port, metrics_port = free_port(), free_port()
        config = tmp_path / "listener.toml"
        config.write_text(
            tomli_w.dumps(
                {
                    "state_dir": str(tmp_path / "listener"),
                    "trust_file": str(tmp_path / TRUST_FILE),
                    "policy_file": str(tmp_path / POLICY_FILE),
                    "key_file": str(tmp_path / KEYS_FOLDER / "listener.json"),
                    "metrics_port": metrics_port,
                    "bus": {"url": f"mqtt://127.0.0.1:{broker_port}"},
                    "chain": {"file": str(tmp_path / CHAIN_FILE)},
                }
            )
        )
        coordinator = await opened.enter_async_context(EvmChain(place, keys["coordinator"].identity))
        async with embedded_broker(broker_port):
            listener = Service("chain_listener", ["--config", str(config)], tmp_path / "listener.log")
            await opened.enter_async_context(running(listener))
            assert await lag_is(metrics_port, lambda blocks: blocks == 0) == 0

        await coordinator.propose_genesis(plan.task, model=M0, policy=POLICY.digest)
        voters = [keys[name].identity for name in plan.validator_names]
        approved = await approve(coordinator, plan.task, 0, voters, accuracy=600_000)

        # The approval cannot be announced without a broker, so its block is not finished, however long that takes.
        assert await lag_is(metrics_port, lambda blocks: blocks > 0) >= 1
        assert approved.block > 0
        async with embedded_broker(broker_port):
            assert await lag_is(metrics_port, lambda blocks: blocks == 0) == 0
