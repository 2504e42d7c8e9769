"""How an approved model reaches the fleet: a few first, then all, or back, in whatever order agents report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from chain_listener import staging
from chain_listener.staging import Rollout, Stage, StagingPolicy
from gemel.wire.messages import Deployment, Installed, Restored
from gemel.wire.standing import Facts

AGENTS = tuple(f"0x{n:040x}" for n in range(1, 9))
MODEL, PARENT = "aa" * 32, "bb" * 32
POLICY = StagingPolicy(canary_share=0.5, canary_patience_s=10, patience_s=20)
BODY = Deployment(
    deployment=4, parent=PARENT, model=MODEL, epoch=1, votes=(), accuracy=1, transaction="cc" * 32, block=9
)


def begun(policy: StagingPolicy = POLICY) -> Rollout:
    return staging.approved(3, BODY, AGENTS, policy, now_ms=0)


def word(outcome: str, **changes: object) -> Installed:
    return replace(Installed(4, MODEL, outcome), **changes)  # type: ignore[arg-type]  # the test's own words


def after(rollout: Rollout, *words: tuple[str, str], policy: StagingPolicy = POLICY, at_ms: int = 1) -> Rollout:
    for device, outcome in words:
        rollout = staging.heard(rollout, device, word(outcome))
    return staging.judged(rollout, policy, at_ms)


def test_canaries_are_the_same_for_everybody_and_others_with_each_deployment() -> None:
    first = staging.choose_canaries(4, AGENTS, 0.25)
    assert first == staging.choose_canaries(4, tuple(reversed(AGENTS)), 0.25)
    assert len(first) == 2
    chosen = {address for number in range(60) for address in staging.choose_canaries(number, AGENTS, 0.25)}
    assert chosen == set(AGENTS)


@pytest.mark.parametrize(("agents", "share", "canaries"), [(1, 0.01, 1), (3, 0.25, 1), (5, 0.25, 2), (8, 0.125, 1)])
def test_share_of_canaries_is_rounded_up(agents: int, share: float, canaries: int) -> None:
    assert len(staging.choose_canaries(1, AGENTS[:agents], share)) == canaries


@pytest.mark.parametrize(
    ("round_", "agents", "share"), [(0, AGENTS, 0.25), (3, AGENTS, 1.0), (3, (), 0.25)], ids=["M0", "all", "nobody"]
)
def test_goes_to_everybody_at_once(round_: int, agents: tuple[str, ...], share: float) -> None:
    rollout = staging.approved(round_, BODY, agents, StagingPolicy(canary_share=share), now_ms=0)
    assert (rollout.stage, rollout.body) == (Stage.FLEET, BODY)


def test_goes_to_everybody_once_all_canaries_are_well() -> None:
    rollout = begun()
    *some, last = sorted(rollout.canaries)
    assert len(some) == 3
    rollout = after(rollout, *((device, "installed") for device in (*some, last)))
    rollout = after(rollout, *((device, "healthy") for device in some))
    assert rollout.stage is Stage.CANARIES
    rollout = after(rollout, (last, "healthy"), at_ms=7)
    assert (rollout.stage, rollout.body, rollout.since_ms) == (Stage.FLEET, BODY, 7)


def test_goes_back_at_the_first_unwell_canary() -> None:
    rollout = begun()
    rollout = after(rollout, (min(rollout.canaries), "unhealthy"))
    assert rollout.stage is Stage.GOING_BACK
    assert rollout.body.canaries is not None


def test_goes_on_with_as_many_unwell_canaries_as_the_policy_bears() -> None:
    policy = replace_policy(unhealthy_share=0.25)
    first, second, *others = sorted(begun(policy).canaries)
    words = [(device, "healthy") for device in others]
    bearable = after(begun(policy), (first, "unhealthy"), (second, "healthy"), *words, policy=policy)
    assert bearable.stage is Stage.FLEET
    too_many = after(begun(policy), (first, "unhealthy"), (second, "unhealthy"), policy=policy)
    assert too_many.stage is Stage.GOING_BACK


@pytest.mark.parametrize(("well", "stage"), [(0, Stage.GOING_BACK), (1, Stage.GOING_BACK), (2, Stage.FLEET)])
def test_agents_that_are_away_cost_the_patience_and_no_more(well: int, stage: Stage) -> None:
    words = [(device, "healthy") for device in sorted(begun().canaries)[:well]]
    assert after(begun(), *words, at_ms=9_999).stage is Stage.CANARIES
    assert after(begun(), *words, at_ms=10_000).stage is stage


def test_one_canary_at_least_must_be_well() -> None:
    policy = replace_policy(healthy_share=0.0)
    assert after(begun(policy), policy=policy, at_ms=10_000).stage is Stage.GOING_BACK


@pytest.mark.parametrize(
    "report",
    [word("unhealthy", deployment=3), word("unhealthy", model=PARENT), word("refused")],
    ids=["another number", "another model", "refusal"],
)
def test_report_that_is_not_of_this_deployment_changes_nothing(report: Installed) -> None:
    rollout = begun()
    assert staging.heard(rollout, min(rollout.canaries), report) == rollout


def test_unwell_agent_that_is_no_canary_holds_nothing_up() -> None:
    rollout = begun()
    other = min(set(AGENTS) - rollout.canaries)
    assert after(rollout, (other, "unhealthy")).stage is Stage.CANARIES


def test_is_out_when_everybody_runs_it_or_somebody_does_in_time() -> None:
    fleet = staging.for_everybody(begun(), now_ms=0)
    assert not staging.is_out(fleet, AGENTS, POLICY, 20_000)  # nobody at all
    one = staging.heard(fleet, AGENTS[0], word("installed"))
    assert not staging.is_out(one, AGENTS, POLICY, 19_999)
    assert staging.is_out(one, AGENTS, POLICY, 20_000)
    for device in AGENTS:
        fleet = staging.heard(fleet, device, word("installed"))
    assert staging.is_out(fleet, AGENTS, POLICY, 0)


def test_restored_model_goes_to_everybody_with_the_word_of_a_quorum() -> None:
    rollout = staging.rolled_back(3, replace(BODY, deployment=5, model=PARENT, parent=MODEL, epoch=0), now_ms=1)
    facts = Facts(epoch=7, electorate="dd" * 32, deployment=5, model=PARENT, policy="ee" * 32)
    said = staging.confirmed(rollout, Restored(facts, ()), now_ms=2)
    assert (said.stage, said.body.epoch, said.body.canaries) == (Stage.STANDS, 7, None)
    assert said.body.restored == Restored(facts, ())


def replace_policy(**changes: float) -> StagingPolicy:
    kept = {"canary_share": 0.5, "canary_patience_s": 10, "patience_s": 20}
    return StagingPolicy(**kept | changes)


CANARIES = sorted(begun().canaries)
words = st.tuples(st.sampled_from(CANARIES), st.sampled_from(["installed", "healthy", "unhealthy", "refused"]))


@given(said=st.lists(words, max_size=12), data=st.data(), bears=st.sampled_from([0.0, 0.25, 0.5]))
def test_order_and_repetition_of_reports_change_nothing(
    said: list[tuple[str, str]], data: st.DataObject, bears: float
) -> None:
    """Judged once all reports are there, or the patience is over: the stage is that of any other order."""
    policy = replace_policy(unhealthy_share=bears)
    again = data.draw(st.permutations(said + data.draw(st.lists(st.sampled_from(said)) if said else st.just([]))))
    one = after(begun(policy), *said, policy=policy, at_ms=10_000)
    other = after(begun(policy), *again, policy=policy, at_ms=10_000)
    assert one == other


@given(said=st.lists(words, max_size=12))
def test_whoever_is_unwell_is_never_followed_by_the_fleet(said: list[tuple[str, str]]) -> None:
    """Judged after each report, as it is done: with no unwell canary borne, none may be behind a fleet's stage."""
    rollout = begun()
    for device, outcome in said:
        rollout = after(rollout, (device, outcome))
        if rollout.stage is not Stage.CANARIES:
            break
    if rollout.stage is Stage.FLEET:
        assert rollout.healthy == set(CANARIES)
        assert not rollout.unhealthy
    assert (rollout.stage is Stage.GOING_BACK) == bool(rollout.unhealthy)
