"""Whether a machine is still what its model has learnt: the policy, pure. drift_watch.py feeds it.

A stream is one number for each finished window: the mean of an input, or 1 where an inspection found a head's answer
wrong and 0 where it was right. Each stream goes through two states:

    state    event                                                        next
    calm     a change as strong as the policy's; of errors, to more       drifted
    drifted  back to half the policy's strength, over RECENT samples    calm, the stream begins anew
    drifted  another model is installed                                   inputs: calm, anew; errors: drifted

An input that drifted is what the next model was trained with, so it counts as normal once that model is installed. Of
an error that is not so: it stands until inspections say that the answers are right again.

A round is asked for while a drift has stood for `hold_windows` samples, there are `hold_examples` labelled windows to
learn it from, and the last request is `cool_down_s` ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import msgspec
from msgspec.structs import replace

from gemel.twin.state import Drift, DriftKind
from gemel.wire.messages import Evidence, RoundRequest
from gemel.wire.types import Millis

REMEMBERED = 500  # samples of a stream: at a window a minute, eight hours
# samples whose mean says where a drifted stream stands: of zeros and ones it takes more, or luck would end a drift
RECENT = {DriftKind.INPUT: 10, DriftKind.ERROR: 30}
ERROR = "error."  # before a head's name
MAX_EVIDENCE = 64  # as the message allows


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """What counts as drift, and when it is worth a round."""

    inputs: tuple[str, ...]  # which are watched
    delta: float  # ADWIN's: how likely a false alarm may be
    grace_windows: int  # samples of a stream before it can drift
    input_strength: float  # standard deviations
    error_strength: float  # of the share of wrong answers
    hold_windows: int
    hold_examples: int
    cool_down_s: float

    def threshold(self, kind: DriftKind) -> float:
        """From which strength on it is drift."""
        return self.input_strength if kind is DriftKind.INPUT else self.error_strength


class Stream(msgspec.Struct, frozen=True):
    """The latest samples of one stream, oldest first, and its drift where it has drifted."""

    kind: DriftKind
    scale: float  # the least standard deviation that counts: a constant sensor's would be none
    samples: tuple[tuple[Millis, float], ...] = ()
    drift: Drift | None = None
    spread: float = 0.0  # standard deviation before the drift
    stood: int = 0  # samples since the drift was found

    @property
    def values(self) -> tuple[float, ...]:
        """The samples without their times."""
        return tuple(value for _, value in self.samples)


class Watched(msgspec.Struct, frozen=True):
    """All streams of a machine, and when a round was asked for last. Begin with `Watched()`."""

    streams: dict[str, Stream] = {}
    asked_ms: Millis | None = None

    @property
    def drift(self) -> dict[str, Drift]:
        """As it stands in the twin."""
        return {name: stream.drift for name, stream in self.streams.items() if stream.drift is not None}

    @property
    def calm(self) -> dict[str, Stream]:
        """The streams in which a change is looked for."""
        return {name: stream for name, stream in self.streams.items() if stream.drift is None}


def sampled(
    watched: Watched, kind: DriftKind, time_ms: Millis, values: Mapping[str, tuple[float, float]], policy: DriftPolicy
) -> Watched:
    """After one sample of some streams: name → (value, scale)."""
    changed = {}
    for name, (value, scale) in values.items():
        stream = watched.streams.get(name) or Stream(kind, scale)
        samples = (*stream.samples, (time_ms, value))[-REMEMBERED:]
        changed[name] = _settled(replace(stream, samples=samples), policy)
    return replace(watched, streams={**watched.streams, **changed})


def found(watched: Watched, changes: Mapping[str, tuple[Millis, Millis]], policy: DriftPolicy) -> Watched:
    """After the detector has found changes: stream → time of the first sample before the change, and after it."""
    changed = {
        name: _changed(watched.streams[name], *change, policy)
        for name, change in changes.items()
        if name in watched.streams and watched.streams[name].drift is None
    }
    return replace(watched, streams={**watched.streams, **changed})


def installed(watched: Watched) -> Watched:
    """After another model was installed. Of a drifted error only what the new model says counts from now on."""
    streams = {}
    for name, stream in watched.streams.items():
        if stream.kind is DriftKind.INPUT:
            streams[name] = Stream(stream.kind, stream.scale)
        else:
            streams[name] = stream if stream.drift is None else replace(stream, samples=())
    return replace(watched, streams=streams)


def request(watched: Watched, examples: int, now_ms: Millis, policy: DriftPolicy) -> RoundRequest | None:
    """What to ask the coordinator now; `examples` are the labelled windows since `oldest`."""
    if watched.asked_ms is not None and now_ms - watched.asked_ms < policy.cool_down_s * 1000:
        return None
    if examples < policy.hold_examples:
        return None
    held = {
        name: stream.drift
        for name, stream in watched.streams.items()
        if stream.drift is not None and stream.stood >= policy.hold_windows
    }
    if not held:
        return None
    wrong = any(drift.kind is DriftKind.ERROR for drift in held.values())
    evidence = tuple(
        Evidence(name, drift.since_ms, drift.before, drift.after, drift.strength)
        for name, drift in sorted(held.items())
    )
    return RoundRequest("error_drift" if wrong else "input_drift", evidence[:MAX_EVIDENCE], examples)


def oldest(watched: Watched) -> Millis | None:
    """Since when something has drifted; None where nothing has."""
    return min((drift.since_ms for drift in watched.drift.values()), default=None)


def asked(watched: Watched, now_ms: Millis) -> Watched:
    """After a round was asked for."""
    return _told(replace(watched, asked_ms=now_ms), asked_ms=now_ms, answer="")


def answered(watched: Watched, asked_ms: Millis, answer: str) -> Watched:
    """After the coordinator's answer to the request of that time; to any other it is none."""
    return _told(watched, answer=answer) if watched.asked_ms == asked_ms else watched


def _told(watched: Watched, **changes: object) -> Watched:
    streams = {
        name: stream if stream.drift is None else replace(stream, drift=replace(stream.drift, **changes))
        for name, stream in watched.streams.items()
    }
    return replace(watched, streams=streams)


def _changed(stream: Stream, from_ms: Millis, since_ms: Millis, policy: DriftPolicy) -> Stream:
    """A calm stream in which a change was found."""
    before = [value for time_ms, value in stream.samples if from_ms <= time_ms < since_ms]
    later = tuple(sample for sample in stream.samples if sample[0] >= since_ms)
    if not before or not later:
        return stream
    mean, after = _mean(before), _mean([value for _, value in later])
    spread = max(_deviation(before), stream.scale)
    drift = Drift(stream.kind, since_ms, _short(mean), _short(after), _strength(stream.kind, mean, after, spread))
    if drift.strength < policy.threshold(stream.kind):
        return stream
    return replace(stream, samples=later, drift=drift, spread=spread, stood=len(later))


def _settled(stream: Stream, policy: DriftPolicy) -> Stream:
    """A stream after a new sample: where a drift has gone to, and whether it is over."""
    if stream.drift is None:
        return stream
    drift, stream = stream.drift, replace(stream, stood=stream.stood + 1)
    recent = stream.values[-RECENT[stream.kind] :]
    if len(recent) < RECENT[stream.kind]:
        return stream
    before, after = drift.before, _mean(recent)
    strength = _strength(stream.kind, before, after, stream.spread)
    better = stream.kind is DriftKind.ERROR and after < before
    if better or strength <= policy.threshold(stream.kind) / 2:
        return Stream(stream.kind, stream.scale)
    return replace(stream, drift=replace(drift, after=_short(after), strength=strength))


def _strength(kind: DriftKind, before: float, after: float, spread: float) -> float:
    return _short(abs(after - before) / (spread if kind is DriftKind.INPUT else 1.0))


def _mean(values: list[float] | tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _deviation(values: list[float]) -> float:
    mean = _mean(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _short(value: float) -> float:
    """Four significant digits: a twin is read by people, and does not change with the fifth."""
    return float(f"{value:.4g}")
