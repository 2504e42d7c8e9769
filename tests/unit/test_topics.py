"""Names that can be a topic level, and the topics made of them. Rights over them: test_rights.py."""

from __future__ import annotations

import pytest
from aiomqtt import Topic
from hypothesis import given
from hypothesis import strategies as st

from gemel.errors import ConfigError
from gemel.wire import topics


@pytest.mark.parametrize("text", ["a", "7", "rig-1", "plant.bonn_2", "a" * 64])
def test_plain_name_is_a_topic_level(text: str) -> None:
    assert topics.name(text) == text


@pytest.mark.parametrize(
    "text", ["", "+", "#", "a/b", "A", "ä", "-a", ".a", "$a", "a b", "a\n", "a\0", "a" * 65, "\u202ea"]
)
def test_name_that_is_no_plain_level_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"site: .*1 to 64 of a-z"):
        topics.name(text, "site")


@given(st.text())
def test_any_accepted_name_is_one_level_without_wildcards(text: str) -> None:
    try:
        level = topics.name(text)
    except ConfigError:
        return
    assert Topic(f"gemel/v1/{level}/twin").matches("gemel/v1/+/twin")


@pytest.mark.parametrize(("fleet", "task"), [("+", "t"), ("f", "#"), ("f/x", "t"), ("f", "")])
def test_learning_topics_of_an_impossible_fleet_or_task_are_refused(fleet: str, task: str) -> None:
    with pytest.raises(ConfigError):
        topics.Learning(fleet, task)


def test_filters_over_all_match_what_they_are_for_and_nothing_of_learning() -> None:
    twin, status = topics.twin_state("bonn", "rig-1"), topics.agent("bonn", "gateway-1", "status")
    assert Topic(twin).matches(topics.ALL_TWINS)
    assert Topic(status).matches(topics.ALL_AGENT_STATUS)
    assert Topic(topics.agent("bonn", "gateway-1", "availability")).matches(topics.ALL_AVAILABILITY)
    assert not Topic(status).matches(topics.ALL_AVAILABILITY)
    learning = topics.Learning("twin", "t").commitment("state")
    assert not any(Topic(learning).matches(f) for f in (topics.ALL_TWINS, topics.ALL_AGENT_STATUS))


def test_tasks_of_one_fleet_share_no_topic() -> None:
    one, other = topics.Learning("fleet", "condition"), topics.Learning("fleet", "other")
    assert not Topic(one.commitment("0x" + "ab" * 20)).matches(other.commitment())
