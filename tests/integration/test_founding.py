"""A fleet founded on the embedded chain."""

from __future__ import annotations

import stat

import msgspec
import pytest

from gemel.adapters.evm_chain import EvmChain
from gemel.console.fleet_files import ChainPlace
from gemel.console.founding import create_keys, found, owner_address
from gemel.errors import ConfigError
from gemel.ports import Role
from gemel.wire.messages import Policy
from gemel.wire.trust import load_trust
from gemel.wire.types import sha256
from tests.support.chains import running_chain
from tests.support.plans import POLICY, plan_of


async def test_founded_fleet_stands_on_chain_as_planned_and_is_not_founded_twice(tmp_path):
    keys = create_keys(tmp_path, plan_of())
    async with running_chain(tmp_path, [k.identity.address for k in keys.values()]) as node:
        plan = plan_of(rpc_url=node.url)
        trust = await found(tmp_path, plan, keys)

        assert load_trust((tmp_path / "trust.json").read_bytes(), "trust.json") == trust
        policy = (tmp_path / "policy.json").read_bytes()
        assert msgspec.json.decode(policy, type=Policy) == POLICY
        assert sha256(policy) == POLICY.digest
        place = msgspec.json.decode((tmp_path / "chain.json").read_bytes(), type=ChainPlace)
        assert place.rounds == trust.domain
        async with EvmChain(place, None) as chain:
            parties = {party.address: party for party in await chain.parties()}
            task = await chain.task(plan.task)
            assert await chain.electorate(plan.task, await chain.epoch()) == trust.electorate
            right, operator = "00" * 32, keys["operator"].identity.address
            for contract in ("DeviceRegistry", "Election", "Maintenance", "AuditAnchors"):
                administration = place.contracts["Administration"]
                assert await chain.calls.call(contract, "hasRole", right, administration), contract
                assert not await chain.calls.call(contract, "hasRole", right, operator), contract
        assert len(parties) == len(keys) - 1  # everybody but the operator
        assert all(parties[keys[n].identity.address].box == keys[n].box for n in keys if n != "operator")
        roles = [party.role for party in parties.values()]
        assert roles == [Role.COORDINATOR, Role.LISTENER, Role.CUSTODIAN, *[Role.VALIDATOR] * 3, *[Role.AGENT] * 4]
        owners = [party.owner for party in parties.values() if party.role == Role.AGENT]
        assert owners == [owner_address(agent.owner) for agent in plan.agents]
        assert len(set(owners)) == 4
        gate = (task.threshold, task.max_regression, task.minimum_owners, task.quorum_part, task.policy)
        assert gate == (300_000, 20_000, 3, 666_666, POLICY.digest)

        before = (tmp_path / "trust.json").read_bytes()
        with pytest.raises(ConfigError, match="has been founded here already"):
            await found(tmp_path, plan, keys)
        assert (tmp_path / "trust.json").read_bytes() == before


async def test_node_on_another_chain_is_refused_and_nothing_is_written(tmp_path):
    keys = create_keys(tmp_path, plan_of())
    async with running_chain(tmp_path, [keys["operator"].identity.address]) as node:
        with pytest.raises(ConfigError, match="chain_id: 5 expected"):
            await found(tmp_path, plan_of(rpc_url=node.url, chain_id=5), keys)
    assert not (tmp_path / "trust.json").exists()


def test_key_folder_is_closed_to_others(tmp_path):
    create_keys(tmp_path, plan_of())
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
