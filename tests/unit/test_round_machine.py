from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator import machine as m
from coordinator.machine import FINAL, Round, State, step
from gemel.errors import IllegalEvent
from gemel.ports import RoundState
from gemel.wire.chunks import Transfer
from gemel.wire.messages import Entry

OWNERS = [f"0x{n:040x}" for n in range(101, 110)]
DEVICES = [f"0x{n:040x}" for n in range(1, 10)]
SUM = Transfer("5" * 64, 1000)


def entry(number: int, weight: int = 10) -> Entry:
    return Entry(DEVICES[number], f"{number:064x}", weight, Transfer(f"{number + 100:064x}", 500))


def fresh(expected: int = 3, minimum_owners: int = 3) -> Round:
    return Round(
        number=1,
        state=State.OPEN,
        base="a" * 64,
        policy="b" * 64,
        expected=expected,
        minimum_owners=minimum_owners,
        commit_until_ms=1000,
        reveal_until_ms=2000,
        decide_until_ms=3000,
    )


def commit(round_: Round, number: int, owner: int | None = None) -> tuple[Round, tuple[m.Effect, ...]]:
    return step(round_, m.CommitmentHeld(entry(number), OWNERS[number if owner is None else owner]), 10)


def through(round_: Round, *events: m.Event) -> tuple[Round, tuple[m.Effect, ...]]:
    effects: tuple[m.Effect, ...] = ()
    for event in events:
        round_, effects = step(round_, event, 100)
    return round_, effects


def added(*numbers: int, level: int = 1) -> m.SumAdded:
    return m.SumAdded(tuple(replace(entry(number), level=level) for number in numbers), "c" * 64, SUM)


def committed(count: int = 3) -> Round:
    round_ = fresh(expected=count)
    for number in range(count):
        round_, _ = commit(round_, number)
    return round_


def collecting(count: int = 3) -> Round:
    return through(committed(count), m.ListAnchored(), m.RosterPublished())[0]


def measured() -> Round:
    taken = [m.FrameTaken(d) for d in DEVICES[:3]]
    rest = (added(0, 1, 2), m.SumAnchored(), m.SumConfirmed(), m.SumOpened("d" * 64))
    return through(collecting(), *taken, *rest, m.CandidateProposed("e" * 64))[0]


def test_a_round_runs_through_all_states_to_deployed() -> None:
    round_, effects = through(measured(), m.Approved(2, 900_000, 800_000))
    assert (round_.state, effects) == (State.APPROVED, (m.OfferModel(),))
    round_, _ = through(round_, m.ModelOffered())
    assert round_.state == State.DEPLOYING
    round_, effects = through(round_, m.AllDeployed())
    assert (round_.state, effects) == (State.DEPLOYED, (m.CleanUp(),))
    assert set(round_.entered_ms) == {
        *(s for s in State if s not in (State.OPEN, State.REJECTED, State.ROLLED_BACK, State.ABORTED))
    }


def test_a_refused_candidate_ends_the_round_with_the_contracts_reason() -> None:
    round_, effects = through(measured(), m.Rejected(400_000, 800_000, "Regression"))
    assert (round_.state, round_.reason, effects) == (State.REJECTED, "Regression", (m.CleanUp(),))


def test_list_closes_as_soon_as_everybody_expected_has_committed() -> None:
    round_ = fresh()
    for number in (0, 1):
        round_, effects = commit(round_, number)
        assert effects == ()
    round_, effects = commit(round_, 2)
    assert effects == (m.AnchorList(),)
    assert round_.closing


def test_commitment_after_the_list_closed_is_illegal_and_changes_nothing() -> None:
    round_ = committed()
    with pytest.raises(IllegalEvent):
        commit(round_, 5)
    assert DEVICES[5] not in round_.entries


def test_second_commitment_of_a_device_is_illegal() -> None:
    round_, _ = commit(fresh(), 0)
    with pytest.raises(IllegalEvent):
        commit(round_, 0)


def test_three_devices_of_two_owners_are_not_three_contributors() -> None:
    round_ = fresh()
    for number, owner in ((0, 0), (1, 1)):
        round_, _ = commit(round_, number, owner)
    round_, effects = commit(round_, 2, owner=1)
    assert (round_.state, effects) == (State.ABORTED, (m.AnchorAbort(), m.CleanUp()))


def test_list_closes_at_its_deadline_with_enough_owners_and_aborts_with_too_few() -> None:
    few = commit(fresh(expected=5), 0)[0]
    assert step(few, m.Tick(), 999) == (few, ())
    assert step(few, m.Tick(), 1000)[0].state == State.ABORTED
    enough = few
    for number in (1, 2):
        enough, _ = commit(enough, number)
    assert step(enough, m.Tick(), 1000)[1] == (m.AnchorList(),)


def test_collection_adds_what_came_when_the_rest_is_refused() -> None:
    round_, effects = through(
        collecting(4),
        *(m.FrameTaken(d) for d in DEVICES[:3]),
        m.FrameRefused(DEVICES[3], "bad_signature"),
    )
    assert effects == (m.AddFrames(),)
    assert [e.device for e in round_.included] == DEVICES[:3]
    assert round_.refused == {DEVICES[3]: "bad_signature"}


def test_frame_after_the_collection_closed_does_not_enter_the_sum() -> None:
    round_ = through(collecting(4), *(m.FrameTaken(d) for d in DEVICES[:3]))[0]
    round_, effects = step(round_, m.Tick(), 2000)
    assert effects == (m.AddFrames(),)
    late, effects = step(round_, m.FrameTaken(DEVICES[3]), 2001)
    assert (late.included, effects) == (round_.included, ())


def test_frame_of_a_device_that_is_not_listed_changes_nothing() -> None:
    round_ = collecting()
    assert step(round_, m.FrameTaken(DEVICES[8]), 10) == (round_, ())


def test_too_few_frames_abort_the_round() -> None:
    round_, effects = through(collecting(), *(m.FrameRefused(d, "late") for d in DEVICES[:3]))
    assert (round_.state, effects[0]) == (State.ABORTED, m.AnchorAbort())


def test_update_that_counts_for_nothing_is_refused_and_the_others_keep_their_levels() -> None:
    round_, _ = through(collecting(4), *(m.FrameTaken(d) for d in DEVICES[:4]), added(0, 1, 3, level=3))
    assert [(e.device, e.level) for e in round_.included] == [(DEVICES[n], 3) for n in (0, 1, 3)]
    assert round_.refused == {DEVICES[2]: "no_weight"}


def test_no_verdict_in_time_aborts_but_an_approved_round_waits_for_its_agents() -> None:
    assert step(measured(), m.Tick(), 3000)[0].state == State.ABORTED
    approved = through(measured(), m.Approved(1, 1, 0))[0]
    assert step(approved, m.Tick(), 10**9) == (approved, ())


def test_failure_aborts_before_a_verdict_and_is_illegal_afterwards() -> None:
    assert step(measured(), m.Failed("no chain"), 5)[0].reason == "no chain"
    rejected = through(measured(), m.Rejected(0, 0, "NoQuorum"))[0]
    with pytest.raises(IllegalEvent):
        step(rejected, m.Failed("late"), 5)


EVENTS = st.one_of(
    st.just(m.Tick()),
    st.builds(lambda n: m.CommitmentHeld(entry(n), OWNERS[n]), st.integers(0, 5)),
    st.sampled_from([m.ListAnchored(), m.RosterPublished(), m.SumAnchored(), m.SumConfirmed(), m.ModelOffered()]),
    st.builds(lambda n: m.FrameTaken(DEVICES[n]), st.integers(0, 5)),
    st.builds(lambda n: m.FrameRefused(DEVICES[n], "late"), st.integers(0, 5)),
    st.sampled_from([added(0, 1, 2), m.SumOpened("d" * 64), m.CandidateProposed("e" * 64)]),
    st.sampled_from([m.Approved(1, 1, 1), m.Rejected(1, 1, "x"), m.AllDeployed(), m.WentBack(), m.Failed("x")]),
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 4000)), max_size=60))
def test_whatever_happens_illegal_events_change_nothing_and_a_final_state_is_final(
    history: list[tuple[m.Event, int]],
) -> None:
    round_ = fresh(expected=4)
    for event, now_ms in history:
        before = round_
        try:
            round_, _ = step(round_, event, now_ms)
        except IllegalEvent:
            assert round_ is before
        if before.state in FINAL:
            assert round_ == before
        if m.AddFrames() in m.pending(round_) or round_.sum is not None:
            assert round_.distinct_owners(round_.taken) >= round_.minimum_owners


def test_every_state_that_the_chain_decides_has_the_machines_name() -> None:
    off_chain = {State.COLLECTING, State.DEPLOYING}
    assert {s.value for s in State} - {s.value for s in off_chain} == {
        s.name.lower() for s in RoundState if s != RoundState.NONE
    }


def test_a_crash_in_any_state_leaves_something_to_be_done_unless_others_must_act() -> None:
    waiting = {State.OPEN}  # for commitments, or the deadline
    for state in State:
        pending = m.pending(replace(measured(), state=state))
        assert bool(pending) == (state not in waiting), state


def test_time_to_reveal_counts_from_the_end_of_a_list_that_closed_early() -> None:
    assert collecting().reveal_until_ms == 100 + 1000
    late, _ = step(step(committed(), m.ListAnchored(), 1400)[0], m.RosterPublished(), 1500)
    assert late.reveal_until_ms == 2000  # and never beyond what the invitation said
