"""Which requests for a round count, and when there are enough."""

from __future__ import annotations

import pytest

from coordinator.requests import Requests, admit, is_repetition, used
from coordinator.settings import RoundSection
from gemel.errors import Refused
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Header, Kind, sign
from gemel.wire.identity import Identity
from gemel.wire.messages import Evidence, RoundRequest, encode
from gemel.wire.reasons import Reason

PLAN = RoundSection(on_request=True, request_agents=2, request_every_s=60, request_valid_s=600)
MODEL, OTHER = "ab" * 32, "cd" * 32
REQUEST = RoundRequest("input_drift", (Evidence("flow", 5000, 3.0, 7.0, 8.0),), 12)
ONE, TWO = (Identity(bytes([n]) * 32) for n in (1, 2))


def header(by: Identity, issued_at_ms: int, base: str = MODEL) -> Header:
    body = encode(REQUEST)
    domain = Domain(1, "0x" + "11" * 20)
    return sign(by, domain, "pumps", Kind.ROUND_REQUEST, body, issued_at_ms=issued_at_ms, base=base).header


def ask(
    requests: Requests,
    by: Identity,
    now_ms: int,
    *,
    plan: RoundSection = PLAN,
    model: str | None = MODEL,
    base: str = MODEL,
) -> Requests:
    return admit(requests, header(by, now_ms, base), REQUEST, model_in_use=model, now_ms=now_ms, plan=plan)


def test_a_round_is_due_once_so_many_different_agents_have_asked() -> None:
    requests = ask(Requests(), ONE, 1000)
    requests = ask(requests, ONE, 100_000)  # the same again does not count twice
    assert not requests.enough(100_000, PLAN)
    requests = ask(requests, TWO, 110_000)
    assert requests.counting(110_000, PLAN) == (ONE.address, TWO.address)
    assert requests.enough(110_000, PLAN)
    assert not requests.enough(100_000 + 600_001, PLAN)  # the first has grown too old
    assert not used(requests).enough(110_000, PLAN)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (Reason.BY_SCHEDULE, {"plan": RoundSection()}),
        (Reason.RUNNING, {"model": None}),
        (Reason.WRONG_BASE, {"base": OTHER}),
    ],
)
def test_request_is_refused_with_its_reason(reason: Reason, changes: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        ask(Requests(), ONE, 1000, **changes)  # type: ignore[arg-type]  # keyword by keyword
    assert refused.value.reason == reason


def test_agent_that_asks_too_often_is_refused_also_after_a_round_has_begun() -> None:
    requests = used(ask(Requests(), ONE, 1000))
    with pytest.raises(Refused) as refused:
        ask(requests, ONE, 60_999)
    assert refused.value.reason == Reason.TOO_SOON
    assert ask(requests, ONE, 61_000).counting(61_000, PLAN) == (ONE.address,)


def test_the_same_request_again_and_an_older_one_are_known() -> None:
    requests = ask(Requests(), ONE, 5000)
    assert is_repetition(requests, header(ONE, 5000))
    assert is_repetition(requests, header(ONE, 4000))
    assert not is_repetition(requests, header(ONE, 5001))
    assert not is_repetition(requests, header(TWO, 5000))
