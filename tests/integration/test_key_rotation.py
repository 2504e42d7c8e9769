"""A party gets new keys on a real chain: registered in its role, confirmed, and the former ones suspended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from typer.testing import CliRunner, Result

import gemel.__main__ as command
from gemel.adapters import key_files
from gemel.adapters.evm_chain import EvmChain
from gemel.console.fleet_files import read_place
from gemel.console.founding import create_keys, found
from gemel.ports import PartyRecord
from gemel.wire.types import Address
from tests.support.chains import running_chain
from tests.support.plans import plan_of


async def gemel(*arguments: str | Path) -> Result:
    """The command in a thread: it runs an event loop of its own."""
    words = [str(each) for each in arguments]
    return await asyncio.to_thread(CliRunner().invoke, command.app, words)


async def registered(fleet: Path, *addresses: Address) -> list[PartyRecord]:
    async with EvmChain(read_place(fleet), None) as chain:
        return [await chain.party(address) for address in addresses]


async def test_rotated_gateway_is_registered_confirmed_and_its_former_keys_suspended(tmp_path: Path) -> None:
    keys = create_keys(tmp_path, plan_of())
    async with running_chain(tmp_path, [k.identity.address for k in keys.values()]) as node:
        await found(tmp_path, plan_of(rpc_url=node.url), keys)
        path, operator = tmp_path / "keys" / "gateway-1.json", tmp_path / "keys" / "operator.json"
        former = keys["gateway-1"]

        # What nobody has registered is not confirmed, and a stranger cannot register it.
        assert (await gemel("keys", "rotate", path)).exit_code == 0
        early = await gemel("keys", "confirm", path, "--fleet", tmp_path)
        assert (early.exit_code, "registered on chain first" in early.stderr) == (2, True)
        stranger = await gemel("keys", "rotate", path, "--fleet", tmp_path, "--operator", path)
        assert stranger.exit_code == 2
        assert key_files.load(path).identity.address == former.identity.address

        for _ in range(2):  # twice changes nothing
            rotated = await gemel("keys", "rotate", path, "--fleet", tmp_path, "--operator", operator)
            assert (rotated.exit_code, "registered as agent" in rotated.stdout) == (0, True)
        confirmed = await gemel("keys", "confirm", path, "--fleet", tmp_path, "--operator", operator)
        assert confirmed.exit_code == 0, confirmed.stderr
        assert "to suspend" not in confirmed.stdout

        following = key_files.load(path)
        before, now = await registered(tmp_path, former.identity.address, following.identity.address)
    assert following.identity.address != former.identity.address
    assert (before.active, now.active) == (False, True)
    assert (now.role, now.owner, now.box) == (before.role, before.owner, following.box)
