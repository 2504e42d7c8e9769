"""Plans that founding refuses, each in one line that names the key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from gemel.console.founding import AgentPlan, check_plan, create_keys, load_plan, owner_address
from gemel.console.founding import policy_of as founded_policy
from gemel.demo.plan import DemoPlan
from gemel.errors import ConfigError
from tests.support.plans import EXAMPLE_TOML, POLICY, plan_of


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_example_plan_is_read(tmp_path):
    plan = load_plan(write(tmp_path, EXAMPLE_TOML))
    assert plan == plan_of(rpc_url="http://127.0.0.1:8545")
    assert plan.party_names == (
        *("operator", "coordinator", "custodian", "listener", "validator-1", "validator-2", "validator-3"),
        *("gateway-1", "gateway-2", "gateway-3", "gateway-4"),
    )


def test_plan_that_names_neither_scheme_nor_bits_seals_at_four_bits_with_a_public_key(tmp_path):
    text = EXAMPLE_TOML.replace("bits = 8\n", "").replace('scheme = "bfv-packed"\n', "")
    sealing = load_plan(write(tmp_path, text)).policy.sealing
    assert (sealing.scheme, sealing.bits) == ("bfv-packed", 4)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("validators = 3", "validators = 3\nquorum = 2", "quorum"),
        ("validators = 3", "validators = 3\nstakes = [5, 3]", "stakes: one for each of 3 validators, 2 given"),
        ("[gate]", "[network]\nquorum_part = 500000\n[gate]", "quorum_part"),
        ("[gate]", "[network]\nminimum_seats = 4\n[gate]", "network.minimum_seats: at most 3"),
        ("[gate]", "[network]\nadministration_delay_s = 60\n[gate]", "administration_delay_s"),
        ('owner = "bonn"', 'owner = "bonn"\nassets = ["press"]', "agents.assets"),
        ("validators = 3", "validators = 0", "validators"),
        ("threshold = 300000", "threshold = 1000001", "threshold"),
        ("threshold = 300000", "threshold = '30%'", "threshold"),
        ("max_regression", "max_regresion", "max_regresion"),
        ("minimum_owners = 3", "minimum_owners = 2", "minimum_owners"),
        ("minimum_owners = 3", "minimum_owners = 5", "agents.owner: 5 distinct owners"),
        ("contributors = 4", "contributors = 2", "policy.sealing.contributors"),
        ("contributors = 4", "contributors = 4\nlevels = 5", "levels"),
        ("contributors = 4", "contributors = 4\nmax_share = 333333", "policy.sealing.max_share: at least 333334"),
        ("minimum_owners = 3", 'minimum_owners = 3\ntwo_owners_exception = "me"', "two_owners_exception"),
        ('owner = "bonn"', 'owner = "bonn"\ntrust = 1000001', "trust"),
        ("bits = 8", "bits = 32", "bits"),
        ("validators = 3", "validators = 3\ncustodians = 2", "custodians"),
        (
            "validators = 3",
            "validators = 3\ncustodians = 3",
            "custodians: 1: the key of bfv-packed is one custodian's",
        ),
        ("max_frame_bytes = 1000000", "max_frame_bytes = 100", "max_frame_bytes"),
        ('name = "gateway-2"', 'name = "gateway-1"', "gateway-1 is taken"),
        ('name = "gateway-2"', 'name = "coordinator"', "coordinator is taken"),
        ('name = "gateway-2"', 'name = "../gateway"', "agents.name"),
        ('fleet = "hydraulics"', 'fleet = "hydraulics/#"', "fleet"),
        ('task = "condition"', "", "task"),
        ('owner = "bonn"', 'owner = "0xBB"', "agents.owner"),
        ('owner = "bonn"', 'owner = ""', "agents.owner"),
        ("[gate]", "[gate", "plan"),
    ],
)
def test_bad_plan_is_refused_in_one_line_that_names_file_and_key(tmp_path, old, new, says):
    assert old in EXAMPLE_TOML
    path = write(tmp_path, EXAMPLE_TOML.replace(old, new))
    with pytest.raises(ConfigError) as refusal:
        load_plan(path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"fleet = 1", b"policy = 3", b"[policy]\nsealing = 4"])
def test_file_that_is_no_plan_is_refused(tmp_path, content):
    path = tmp_path / "fleet.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fleet\.toml"):
        load_plan(path)


def test_two_names_of_one_owner_count_once():
    agents = tuple(AgentPlan(f"gateway-{n}", "bonn" if n < 3 else "lyon") for n in range(1, 5))
    with pytest.raises(ConfigError, match=r"3 distinct owners .* 2 given"):
        check_plan(plan_of(agents=agents), "plan")


def test_two_owners_may_found_a_fleet_where_somebody_has_allowed_it_and_said_so():
    agents = (AgentPlan("gateway-1", "bonn"), AgentPlan("gateway-2", "lyon"))
    policy = replace(POLICY, minimum_owners=2, two_owners_exception="the board, for the trial in May")
    check_plan(plan_of(agents=agents, policy=policy), "plan")
    with pytest.raises(ConfigError, match="3 distinct owners"):
        check_plan(plan_of(agents=agents), "plan")
    with pytest.raises(ConfigError, match="2 distinct owners"):
        check_plan(plan_of(agents=agents[:1], policy=policy), "plan")


def test_trust_of_an_agent_stands_in_the_policy_by_its_address(tmp_path):
    agents = (*plan_of().agents[:3], AgentPlan("gateway-4", "graz", trust=250_000))
    plan = plan_of(agents=agents)
    keys = create_keys(tmp_path, plan)
    policy = founded_policy(plan, keys)
    assert policy.trust == {keys["gateway-4"].identity.address: 250_000}
    assert policy.digest != POLICY.digest
    assert founded_policy(plan_of(), keys) == POLICY


def test_owner_by_name_has_one_address_and_an_address_stays_as_it_is():
    assert owner_address("bonn") == owner_address("bonn") != owner_address("lyon")
    assert owner_address("0x" + "ab" * 20) == "0x" + "ab" * 20


def test_keys_are_private_files_and_are_kept_when_asked_for_again(tmp_path):
    keys = create_keys(tmp_path, plan_of())
    assert set(keys) == set(plan_of().party_names)
    assert len({key.identity.address for key in keys.values()}) == len(keys)
    again = create_keys(tmp_path, plan_of())
    assert {n: k.identity.address for n, k in again.items()} == {n: k.identity.address for n, k in keys.items()}
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_in_a_place_that_cannot_be_made_are_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="directory"):
        create_keys(tmp_path / "file", plan_of())


def test_three_custodians_get_names_and_keys_of_their_own(tmp_path):
    text = EXAMPLE_TOML.replace("validators = 3", "validators = 3\ncustodians = 3").replace(
        "bfv-packed", "one-time-keys"
    )
    plan = load_plan(write(tmp_path, text))
    assert plan.custodian_names == ("custodian", "custodian-2", "custodian-3")
    assert set(plan.custodian_names) <= set(plan.party_names)


def test_levels_are_refused_under_one_time_keys(tmp_path):
    text = EXAMPLE_TOML.replace("bfv-packed", "one-time-keys").replace("bits = 8", "bits = 8\nlevels = 2")
    with pytest.raises(ConfigError, match="levels: 1: weights on these ciphertexts would open single keys"):
        load_plan(write(tmp_path, text))


@pytest.mark.parametrize(("one_time_keys", "custodians"), [(False, 1), (True, 3)])
def test_demos_own_plan_could_be_founded_under_either_scheme(one_time_keys, custodians):
    plan = DemoPlan(one_time_keys=one_time_keys).fleet("http://127.0.0.1", 31337)
    check_plan(plan, "demo")
    assert len(plan.custodian_names) == custodians
