"""What is settable, desired and wrong as parts of the twin document, and the names of everything in it."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.twin.addresses import addresses, look_up
from gemel.twin.state import (
    Alert,
    AlertKind,
    Desired,
    DesiredState,
    Diagnosis,
    Drift,
    DriftKind,
    InputWeight,
    Property,
    Quality,
    RunningModel,
    Settable,
    Severity,
    Twin,
    adrift,
    blank,
    desire,
    diagnose,
    from_json,
    hold,
    merge,
    offer,
    to_json,
    warn,
)
from gemel.wire.types import sha256

names = st.sampled_from(["speed", "valve", "TS1"])
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.integers(0, 3)
settable = st.builds(Settable, st.just("rpm"), st.none() | numbers, st.none() | numbers)
desired = st.builds(
    Desired, st.sampled_from(["a", "b"]), numbers, st.just("rpm"), times, times, times, st.sampled_from(DesiredState)
)
alerts = st.builds(
    Alert,
    st.sampled_from(["hot-1", "hot-2"]),
    st.sampled_from(AlertKind),
    st.just("TS1"),
    st.sampled_from(Severity),
    st.just("hot"),
    times,
    st.none() | numbers | st.just("near_failure"),
)
twins = st.builds(
    Twin,
    st.just("gemel.twin/1"),
    st.just("north"),
    st.just("press-1"),
    times,
    st.just({}),
    st.just({}),
    st.none(),
    st.dictionaries(names, settable, max_size=2),
    st.dictionaries(names, desired, max_size=2),
    st.dictionaries(names, alerts, max_size=2),
)


@given(twins)
def test_json_round_trip_gives_an_equal_twin(twin: Twin) -> None:
    assert from_json(to_json(twin)) == twin


@given(twins, twins, twins)
def test_merge_depends_neither_on_order_nor_on_grouping(a: Twin, b: Twin, c: Twin) -> None:
    assert merge(a, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


def test_alert_that_has_ended_does_not_come_back_from_an_older_document() -> None:
    alert = Alert("hot-1", AlertKind.VALUE, "TS1", Severity.WARNING, "hot", 5, 71.0)
    raised = warn(blank("north", "press-1"), {"hot": alert})
    cleared = warn(raised, {})
    assert merge(raised, cleared).alerts == {}


@given(twins)
def test_section_that_stays_as_it_is_makes_no_version(twin: Twin) -> None:
    assert warn(desire(offer(twin, twin.settable), twin.desired), twin.alerts) is twin


def test_document_of_before_there_were_these_sections_is_still_read() -> None:
    old = '{"schema":"gemel.twin/1","site":"north","asset":"press-1","version":3,"properties":{},"health":{},"model":'
    assert from_json(f"{old}null}}".encode()) == replace(blank("north", "press-1"), version=3)


def diagnosed() -> Twin:
    twin = hold(blank("north", "press-1"), {"flow.rate": Property(8.0, "l/min", 1, 2, Quality.GOOD)})
    cooler = Diagnosis("near_failure", 0.9, (InputWeight("TS1", 0.6),), 5, Quality.UNCERTAIN)
    return diagnose(twin, RunningModel(sha256(b"m"), 1), {"cooler.main": cooler})


def test_prediction_confidence_and_why_have_names_as_readings_have() -> None:
    twin = diagnosed()
    assert addresses(twin) == (
        "flow.rate",
        "health.cooler.main.condition",
        "health.cooler.main.confidence",
        "health.cooler.main.why",
    )
    known = {address: look_up(twin, address) for address in addresses(twin)}
    assert [k and k.value for k in known.values()] == [8.0, "near_failure", 0.9, "TS1"]
    assert [k and k.quality for k in known.values()] == [Quality.GOOD, *[Quality.UNCERTAIN] * 3]
    assert [k and k.unit for k in known.values()] == ["l/min", "", "", ""]


def test_drift_has_a_name_and_its_end_is_known_too() -> None:
    drifted = adrift(diagnosed(), {"error.cooler": Drift(DriftKind.ERROR, 5, 0.1, 0.4, 0.3)})
    address = "drift.error.cooler.strength"
    assert address in addresses(drifted)
    assert [known and known.value for known in (look_up(t, address) for t in (drifted, adrift(drifted, {})))] == [
        0.3,
        0.0,
    ]


def test_name_at_which_nothing_stands_gives_nothing() -> None:
    for address in (
        "TS9",
        "health",
        "health.",
        "health.cooler",
        "health.valve.condition",
        "health.cooler.main.color",
    ):
        assert look_up(diagnosed(), address) is None, address


def test_reading_cannot_pass_itself_off_as_a_diagnosis() -> None:
    forged = Property(1.0, "", 1, 2, Quality.GOOD)
    twin = hold(diagnosed(), {"health.cooler.main.confidence": forged})
    known = look_up(twin, "health.cooler.main.confidence")
    assert known is not None
    assert known.value == 0.9
    assert addresses(twin).count("health.cooler.main.confidence") == 1
