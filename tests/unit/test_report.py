"""The demo's report, from kept runs made by hand with real models: what it says, and what it does not make up."""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator import driver, machine
from gemel.demo.report import baselines, build, evidence, schema
from gemel.demo.report.evidence import AgentRound, Evidence
from gemel.learning.measuring import examine, save_windows
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import HEADS, INPUTS, WINDOW_S, task
from gemel.wire.chunks import Transfer
from gemel.wire.messages import Entry, TrainingPlan
from gemel.wire.tensors import Model, flatten, from_bytes, to_bytes, unflatten
from gemel.wire.types import sha256
from tests.support.kept_runs import BELOW_THRESHOLD, TASK, MadeRound, keep_run

TASK_PATH = "gemel.learning.tasks.hydraulic:task"
PLAN = TrainingPlan(epochs=1, batch_size=8, learning_rate=0.002)
AGENTS = {f"gateway-{n}": f"0x{n:040x}" for n in (1, 2, 3)}
WEIGHTS = dict(zip(AGENTS.values(), (10, 20, 30), strict=True))


def windows_of(count: int, seed: int) -> Windows:
    random = np.random.default_rng(seed)
    low, high = (np.array([getattr(each, name) for each in INPUTS]) for name in ("low", "high"))
    inputs = random.uniform(low, high, (count, WINDOW_S, len(INPUTS))).astype(np.float32)
    return Windows(inputs, np.stack([random.integers(len(head.classes), size=count) for head in HEADS], axis=1))


GATEWAYS = {name: windows_of(12, seed) for seed, name in enumerate(AGENTS)}


def model_of(data: bytes) -> Model:
    return from_bytes(data, task.manifest)


def moved(model: bytes, by: float) -> bytes:
    """A model whose weights are all off by so much."""
    return to_bytes(unflatten(flatten(model_of(model)) + np.float32(by), task.manifest))


M0 = to_bytes(task.initial_model(1))
M1, BAD, M3 = moved(M0, 0.01), moved(M0, 0.9), moved(M0, 0.03)
RUN = (
    MadeRound(0, None, M0, deployment=1, accuracy=0.3, baseline=0.0),
    MadeRound(1, M0, M1, deployment=2, weights=WEIGHTS),
    MadeRound(2, M1, BAD, verdict=BELOW_THRESHOLD, accuracy=0.21, weights=WEIGHTS, drift=0.6),
    MadeRound(3, M1, M3, deployment=3, weights=WEIGHTS),
)


@pytest.fixture(scope="module")
def computed() -> baselines.Baselines:
    report, validation = windows_of(16, 7), windows_of(8, 8)
    return baselines.compute(TASK_PATH, M0, GATEWAYS, validation, report, PLAN, rounds=3, seed=1)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    keep_run(tmp_path / "state", RUN)
    return tmp_path / "state"


def evidence_of(state_dir: Path, computed: baselines.Baselines | None, **changes: Any) -> Evidence:
    said = AgentRound(samples=10, loss=0.9, accuracy=0.6, change=0.02, frame_bytes=210_000, participation="accepted")
    values: dict[str, Any] = {
        "out_dir": state_dir / "out",
        "state_dir": state_dir,
        "seed": 1,
        "machine": evidence.describe_machine(),
        "duration_s": 61.5,
        "task_path": TASK_PATH,
        "plan": PLAN,
        "agents": AGENTS,
        "agent_rounds": {name: dict.fromkeys((1, 2, 3), said) for name in AGENTS},
        "gateway_windows": GATEWAYS,
        "report_windows": windows_of(16, 7),
        "validation_windows": windows_of(8, 8),
        "kept": evidence.load(state_dir, state_dir / "chain-export.json", task=TASK),
        "baselines": computed,
    }
    return Evidence(**values | changes)


def built(found: Evidence) -> tuple[schema.Report, str]:
    build(found)
    return schema.decode((found.out_dir / "report.json").read_bytes()), (found.out_dir / "report.html").read_text()


def test_whole_run_is_told_in_figures_of_the_documented_form(kept: Path, computed: baselines.Baselines) -> None:
    found = evidence_of(kept, computed, sabotage={2: "gateway-3 scrambled its labels"})
    report, page = built(pickle.loads(pickle.dumps(found)))  # it is built in a worker process

    assert report.missing == ()
    assert (report.verdict.deployed, report.verdict.refused, report.verdict.other) == (2, 1, 0)
    assert [each.outcome for each in report.rounds] == ["deployed", "deployed", "refused", "deployed"]
    first, refused, last = report.rounds[1:]
    assert last.candidate == report.verdict.federated
    truth = task.evaluate(model_of(M3), found.report_windows)
    assert last.candidate is not None
    assert last.candidate.accuracy_share == pytest.approx(truth.accuracy)
    assert last.in_use == first.candidate
    assert refused.reason == "below threshold"
    assert refused.contract_accuracy_share == pytest.approx(0.21)
    assert refused.explanation_drift == pytest.approx(0.6)
    assert first.mean_absolute_change == pytest.approx(0.01, rel=1e-3)
    assert [agent.part_share for agent in first.agents] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert first.phases_s["collecting"] == pytest.approx(1.7)
    assert "deployed" not in first.phases_s  # the last state has no end
    assert report.gate is not None
    assert report.gate.threshold_share == pytest.approx(0.3)
    assert "gateway-3 scrambled its labels" in page
    assert "2 rounds deployed, 1 refused" in page
    assert "below threshold: median accuracy 21.0\u00a0%, in use 60.0\u00a0%, at least 30.0\u00a0% needed" in page


def test_lineage_names_digest_parent_root_transaction_block_and_gas(
    kept: Path, computed: baselines.Baselines
) -> None:
    report, page = built(evidence_of(kept, computed))
    m0, first, refused, last = report.rounds
    assert (m0.base, m0.deployment) == (None, 1)
    assert first.base == m0.model == sha256(M0)
    assert refused.base == last.base == first.model  # nothing is trained from a refused candidate
    assert first.updates_root == sha256(b"updates")
    assert [each.function for each in first.transactions][:2] == ["openRound", "closeList"]
    deciding = next(each for each in first.transactions if each.hash == first.transaction)
    assert (deciding.function, deciding.block) == ("finalise", first.block)
    assert first.gas == sum(each.gas for each in first.transactions)
    assert page.count('<li class="side">') == 1
    assert all(each.model is not None and each.model in page for each in report.rounds)


def test_bytes_are_held_against_plain_float32(kept: Path, computed: baselines.Baselines) -> None:
    report, _ = built(evidence_of(kept, computed))
    sizes = report.rounds[1].sizes
    assert sizes is not None
    assert sizes.plain_update_bytes == len(flatten(model_of(M0)).tobytes())
    assert (sizes.sealed_update_bytes, sizes.wrapped_update_bytes) == (205_281, 210_000)
    assert (sizes.context_bytes, sizes.sum_bytes, sizes.updates) == (600_000, 205_000, 3)


def test_explanation_has_every_group_of_every_head_heaviest_first(kept: Path, computed: baselines.Baselines) -> None:
    report, page = built(evidence_of(kept, computed))
    assert report.explanation is not None
    assert report.explanation.model == sha256(M3)
    assert [head.head for head in report.explanation.heads] == [head.name for head in HEADS]
    for head in report.explanation.heads:
        weights = [abs(group.lime) for group in head.groups]
        assert len(weights) == len(INPUTS) * 6
        assert weights == sorted(weights, reverse=True)
        assert any(group.gradient != 0 for group in head.groups)
    assert page.count("<figcaption>LIME</figcaption>") == len(HEADS)


def test_calibration_is_the_final_models_own(kept: Path, computed: baselines.Baselines) -> None:
    found = evidence_of(kept, computed)
    calibration = built(found)[0].calibration
    assert calibration is not None
    truth = task.evaluate(model_of(M3), found.report_windows)
    assert calibration.accuracy_share == pytest.approx(truth.accuracy)
    assert sum(each.predictions for each in calibration.bins) == len(found.report_windows) * len(HEADS)
    assert calibration.mean_confidence_share > 1 / 4


def test_baselines_are_of_the_runs_budget_and_deterministic(kept: Path, computed: baselines.Baselines) -> None:
    again = evidence_of(kept, None, kept=evidence.load(kept, kept / "chain-export.json", task=TASK))
    comparison = built(again)[0].comparison  # computed by the report: three rounds were run
    assert comparison is not None
    assert (comparison.rounds, comparison.central_epochs) == (3, 3 * PLAN.epochs)
    found = {each.agent: each.score.accuracy_share for each in comparison.locals}
    assert found == {name: measured.accuracy for name, measured in computed.local.items()}
    assert comparison.central.accuracy_share == computed.central.accuracy
    mean = np.mean([each.accuracy for each in computed.local.values()])
    report, _ = built(evidence_of(kept, computed))
    assert report.verdict.local_mean_accuracy_share == pytest.approx(mean)


def test_baselines_of_another_budget_are_called_so(tmp_path: Path, computed: baselines.Baselines) -> None:
    keep_run(tmp_path, RUN[:2])  # cut short: one round, while the baselines were computed for three
    report, page = built(evidence_of(tmp_path, computed))
    assert "an equal budget: baselines had that of 3 rounds, the plant 1" in report.missing
    assert "Budgets differ" in page
    assert "The same budget everywhere" not in page


def test_page_asks_nothing_of_anybody_and_runs_nothing(kept: Path, computed: baselines.Baselines) -> None:
    _, page = built(evidence_of(kept, computed))
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|url\(|srcset|src=", page)
    assert "default-src &#x27;none&#x27;" in page
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_hostile_text_stays_text(tmp_path: Path, computed: baselines.Baselines) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror='a'>\" " + "A" * 5000
    keep_run(tmp_path, RUN)
    round_file = tmp_path / "coordinator/rounds/000001/round.json"
    stored = msgspec.json.decode(round_file.read_bytes())
    stored["refused"] = {AGENTS["gateway-1"]: hostile}
    stored["entered_ms"]["<b>odd</b>"] = stored["entered_ms"]["deployed"] + 5
    round_file.write_bytes(msgspec.json.encode(stored))
    names = {hostile: AGENTS["gateway-1"]}
    found = evidence_of(
        tmp_path,
        replace(computed, local={hostile: computed.local["gateway-1"]}),
        agents=names,
        gateway_windows={hostile: GATEWAYS["gateway-1"]},
        agent_rounds={hostile: {1: AgentRound(participation=hostile, change=float("nan"), loss=float("inf"))}},
        sabotage={2: hostile},
        machine=hostile,
    )
    report, page = built(found)
    assert "<script" not in page
    assert "<img" not in page
    assert "onerror='a'" not in page
    assert "<b>odd" not in page
    assert "&lt;script&gt;" in page
    assert "A" * 400 not in page
    (agent,) = report.rounds[1].agents
    assert (agent.mean_absolute_change, agent.loss_nats, agent.part_share) == (None, None, None)


def test_round_without_measurement_is_said_and_not_invented(kept: Path, computed: baselines.Baselines) -> None:
    (kept / "coordinator/rounds/000001/measurement.json").unlink()
    report, page = built(evidence_of(kept, computed))
    assert report.missing == ("round 1: the coordinator's measurement.json",)
    assert report.rounds[1].explanation_drift is None
    assert report.rounds[2].explanation_drift is not None
    assert "round 1: the coordinator&#x27;s measurement.json" in page


def test_run_without_refusal_says_so(tmp_path: Path, computed: baselines.Baselines) -> None:
    keep_run(tmp_path, RUN[:2])
    report, page = built(evidence_of(tmp_path, computed))
    assert report.verdict.refused == 0
    assert "No candidate was refused in this run." in page
    assert "refused candidate" not in page
    assert 'class="side"' not in page


def test_missing_or_altered_model_is_named_and_not_measured(kept: Path, computed: baselines.Baselines) -> None:
    digest = sha256(BAD)
    blob = kept / "coordinator/blobs" / digest[:2] / digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    report, _ = built(evidence_of(kept, computed))
    assert any(line.startswith(f"model {digest[:12]}") for line in report.missing)
    assert report.rounds[2].candidate is None
    assert report.rounds[2].outcome == "refused"
    assert report.rounds[3].candidate is not None


def test_run_that_left_nothing_still_gets_a_report(tmp_path: Path) -> None:
    report, page = built(evidence_of(tmp_path, None))
    assert report.rounds == ()
    assert (report.explanation, report.calibration, report.comparison) == (None, None, None)
    assert "the coordinator kept no rounds" in report.missing
    assert any("chain's export" in line for line in report.missing)
    assert "No federated model could be measured" in page


def test_broken_files_are_named_and_the_chain_still_tells_the_round(
    kept: Path, computed: baselines.Baselines
) -> None:
    (kept / "coordinator/rounds/000002/round.json").write_bytes(b'{"number": "two"')
    report, _ = built(evidence_of(kept, computed))
    assert any("round 2: round.json cannot be read" in line for line in report.missing)
    refused = report.rounds[2]
    assert (refused.outcome, refused.phases_s, refused.sizes) == ("refused", {}, None)
    assert refused.candidate is not None


def test_broken_chain_export_leaves_the_coordinators_word(kept: Path, computed: baselines.Baselines) -> None:
    (kept / "chain-export.json").write_bytes(b"{}")
    report, _ = built(evidence_of(kept, computed))
    assert [each.outcome for each in report.rounds] == ["deployed", "deployed", "refused", "deployed"]
    assert all(each.transaction is None and each.gas is None for each in report.rounds)
    assert any("round 1: the chain's record" in line for line in report.missing)


def test_round_that_was_cut_off_counts_as_neither(tmp_path: Path, computed: baselines.Baselines) -> None:
    keep_run(tmp_path, (*RUN[:2], MadeRound(2, M1, M3, verdict=None, weights=WEIGHTS)))
    report, page = built(evidence_of(tmp_path, computed))
    assert report.rounds[2].outcome == "unfinished"
    assert (report.verdict.deployed, report.verdict.refused, report.verdict.other) == (1, 0, 1)
    assert report.explanation is not None
    assert report.explanation.model == sha256(M1)
    assert "1 without a verdict" in page


def test_agent_that_says_nothing_is_missing_from_the_parts(kept: Path, computed: baselines.Baselines) -> None:
    said = {name: {1: AgentRound(change=0.02)} for name in list(AGENTS)[:2]}
    report, _ = built(evidence_of(kept, computed, agent_rounds=said))
    assert [agent.part_share for agent in report.rounds[1].agents] == pytest.approx([1 / 3, 2 / 3, None])
    assert "round 1: what gateway-3 said of itself" in report.missing


def test_status_fields_of_a_wrong_type_are_left_out() -> None:
    statuses: dict[str, dict[int, dict[str, object]]] = {
        "a": {1: {"samples": "many", "loss": 0.5, "change": None, "extra": 1, "participation": ["x"]}}
    }
    assert evidence.read_agent_rounds(statuses) == {"a": {1: AgentRound(loss=0.5)}}


def test_what_the_coordinator_writes_is_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator/rounds/000004"
    folder.mkdir(parents=True)
    device = AGENTS["gateway-1"]
    transfer = Transfer(sha256(b"frame"), 210_000)
    written = machine.Round(
        number=4,
        state=machine.State.ABORTED,
        base=sha256(M0),
        policy=sha256(b"policy"),
        context=Transfer(sha256(b"context"), 600_000),
        entries={device: Entry(device, sha256(b"body"), 12, transfer)},
        taken=frozenset({device}),
        reason="too few owners revealed",
        entered_ms={machine.State.OPEN: 1000, machine.State.ABORTED: 3500},
    )
    (folder / "round.json").write_bytes(driver.as_json(written))
    save_windows(tmp_path / "reference.npz", windows_of(2, 5))
    examined = examine(TASK_PATH, M1, M0, str(tmp_path / "reference.npz"), 1)
    (folder / "measurement.json").write_bytes(examined.measurement)

    (found,) = evidence.load(tmp_path, tmp_path / "absent.json", task=TASK).rounds
    assert found.record is not None
    assert (found.record.state, found.record.reason) == ("aborted", "too few owners revealed")
    assert found.record.entries == written.entries
    assert found.record.taken == (device,)
    assert found.record.entered_ms == {"open": 1000, "aborted": 3500}
    assert found.measurement is not None
    written_drift = msgspec.json.decode(examined.measurement)["explanation_drift"]
    assert found.measurement.explanation_drift == pytest.approx(written_drift)


def test_another_tasks_rounds_are_not_told(tmp_path: Path, computed: baselines.Baselines) -> None:
    keep_run(tmp_path, RUN, task="press")
    shutil.rmtree(tmp_path / "coordinator/rounds")
    kept = evidence.load(tmp_path, tmp_path / "chain-export.json", task=TASK)
    assert kept.rounds == ()
    assert kept.gate is None
