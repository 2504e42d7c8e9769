"""From evidence to figures: every number of the report is computed here, on the report's own cycles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gemel.demo.report import schema
from gemel.demo.report.baselines import Baselines, compute
from gemel.demo.report.evidence import AgentRound, ChainRound, Evidence, RoundEvidence, RoundRecord, read_model
from gemel.errors import PeerError
from gemel.learning.explaining import gradient_attributions, group_names, lime_attributions
from gemel.learning.task import UNKNOWN, Measured, Task, load_task
from gemel.wire.tensors import Model, flatten, from_bytes
from gemel.wire.types import NO_DIGEST, Digest

BINS = 10  # of confidence
TEXT_LIMIT = 300  # characters shown of what others wrote

_OUTCOMES: Mapping[str, schema.Outcome] = {
    "deployed": "deployed",
    "rejected": "refused",
    "aborted": "aborted",
    "rolled_back": "rolled_back",
}


def analyse(evidence: Evidence) -> schema.Report:
    """Measure, compare and explain. Seconds of CPU; whatever cannot be had becomes a line of `missing`."""
    return _Analysis(evidence).report()


class _Analysis:
    """One evidence's models, each read and measured once, and what was found missing on the way."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._task: Task = load_task(evidence.task_path)
        self._models: dict[Digest, Model | None] = {}
        self._scores: dict[Digest, schema.Score] = {}
        self._missing = list(evidence.kept.missing)

    def report(self) -> schema.Report:
        evidence, kept = self._evidence, self._evidence.kept
        rounds = tuple(self._round(each) for each in kept.rounds)
        final = self._final(rounds)
        federated = None if final is None else self._score(final)
        comparison = self._comparison(rounds, federated)
        return schema.Report(
            format="gemel-report/1",
            run=schema.Run(
                seed=evidence.seed,
                machine=_short(evidence.machine),
                duration_s=evidence.duration_s,
                agents=tuple(_short(name) for name in evidence.agents),
                report_cycles=len(evidence.report_windows),
                parameters=self._task.manifest.size,
                epochs_per_round=evidence.plan.epochs,
            ),
            gate=None
            if kept.gate is None
            else schema.Gate(
                threshold_share=kept.gate.threshold,
                max_regression_share=kept.gate.max_regression,
                minimum_owners=kept.gate.minimum_owners,
                quorum_share=kept.gate.quorum,
            ),
            verdict=_verdict(rounds, federated, comparison),
            rounds=rounds,
            comparison=comparison,
            explanation=None if final is None else self._explanation(final),
            calibration=None if final is None else self._calibration(final),
            missing=tuple(_short(line) for line in self._missing),
        )

    # --- models ---------------------------------------------------------------------------------

    def _model(self, digest: Digest) -> Model | None:
        if digest not in self._models:
            data = read_model(self._evidence.state_dir, digest)
            self._models[digest] = None
            try:
                if data is None:
                    self._missing.append(f"model {digest[:12]}: the coordinator's blobs do not hold it")
                else:
                    self._models[digest] = from_bytes(data, self._task.manifest)
            except PeerError as error:
                self._missing.append(f"model {digest[:12]}: {error}")
        return self._models[digest]

    def _score(self, digest: Digest | None) -> schema.Score | None:
        model = None if digest is None else self._model(digest)
        if digest is None or model is None:
            return None
        if digest not in self._scores:
            try:
                self._scores[digest] = _score(self._task.evaluate(model, self._evidence.report_windows))
            except PeerError as error:  # a poisoned candidate may overflow
                self._missing.append(f"model {digest[:12]}: cannot be measured: {error}")
                return None
        return self._scores[digest]

    def _change(self, model: Digest | None, base: Digest | None) -> float | None:
        after, before = (None if digest is None else self._model(digest) for digest in (model, base))
        if after is None or before is None:
            return None
        return float(np.abs(flatten(after) - flatten(before)).mean())

    def _final(self, rounds: Sequence[schema.Round]) -> Digest | None:
        """The model in use at the end."""
        for each in reversed(rounds):
            if each.outcome == "deployed" and each.model is not None:
                return each.model if self._model(each.model) is not None else None
        self._missing.append("no model was deployed: there is none to explain")
        return None

    # --- rounds ---------------------------------------------------------------------------------

    def _round(self, each: RoundEvidence) -> schema.Round:
        record, chain = each.record, each.chain or ChainRound("unknown")
        model = _known(chain.model or (record.model if record else None))
        base = _known(chain.parent or (record.base if record else None))
        # the chain's word goes before the coordinator's
        state = each.chain.state if each.chain else record.state if record else "unknown"
        return schema.Round(
            number=each.number,
            outcome=_OUTCOMES.get(state, "unfinished"),
            reason=_short(chain.reason or (record.reason if record else "")),
            sabotage=_short(self._evidence.sabotage.get(each.number, "")),
            deployment=chain.deployment,
            model=model,
            base=base,
            candidate=self._score(model),
            in_use=self._score(base),
            contract_accuracy_share=chain.accuracy,
            contract_baseline_share=chain.baseline if each.number > 0 else None,
            votes=tuple(
                schema.Vote(
                    validator=vote.validator,
                    accuracy_share=vote.accuracy,
                    baseline_share=vote.baseline,
                    approved=vote.approved,
                )
                for vote in chain.votes
            ),
            mean_absolute_change=self._change(model, base),
            explanation_drift=each.measurement.explanation_drift if each.measurement else None,
            agents=self._agents(each.number, record),
            phases_s=_phases(record.entered_ms) if record else {},
            roster_root=chain.roster_root,
            updates_root=chain.updates_root,
            sum_digest=chain.sum_digest,
            explanation=chain.explanation,
            transaction=chain.deciding,
            block=next((each.block for each in chain.transactions if each.hash == chain.deciding), None),
            gas=sum(each.gas for each in chain.transactions) if chain.transactions else None,
            transactions=tuple(
                schema.Transaction(function=each.function, hash=each.hash, block=each.block, gas=each.gas)
                for each in chain.transactions
            ),
            sizes=self._sizes(each),
        )

    def _agents(self, number: int, record: RoundRecord | None) -> tuple[schema.Agent, ...]:
        if number == 0:
            return ()  # M0 is nobody's training
        lines = []
        for name, address in self._evidence.agents.items():
            said = self._evidence.agent_rounds.get(name, {}).get(number)
            if said is None:
                self._missing.append(f"round {number}: what {name} said of itself")
            entry = record.entries.get(address) if record else None
            lines.append((name, said or AgentRound(), entry, record is not None and address in record.taken, address))
        pulls = [
            entry.weight * change if included and entry and (change := _finite(said.change)) is not None else None
            for _, said, entry, included, _ in lines
        ]
        total = sum(pull for pull in pulls if pull is not None)
        return tuple(
            schema.Agent(
                name=_short(name),
                samples=said.samples,
                weight=entry.weight if entry else None,
                loss_nats=_finite(said.loss),
                accuracy_share=_finite(said.accuracy),
                mean_absolute_change=_finite(said.change),
                part_share=None if pull is None or total <= 0 else pull / total,
                frame_bytes=said.frame_bytes,
                included=included,
                refusal=_short(record.refused.get(address, "")) if record else "",
                participation=_short(said.participation),
            )
            for (name, said, entry, included, address), pull in zip(lines, pulls, strict=True)
        )

    def _sizes(self, each: RoundEvidence) -> schema.Sizes | None:
        if each.record is None or not each.record.entries:
            return None
        entries = each.record.entries.values()
        sealed = list(each.sealed_bytes.values())
        return schema.Sizes(
            updates=len(entries),
            plain_update_bytes=4 * self._task.manifest.size,
            sealed_update_bytes=float(np.mean(sealed)) if sealed else None,
            wrapped_update_bytes=float(np.mean([entry.transfer.length for entry in entries])),
            sum_bytes=each.record.sum.length if each.record.sum else None,
            context_bytes=each.record.context.length if each.record.context else None,
        )

    # --- comparison -----------------------------------------------------------------------------

    def _comparison(self, rounds: Sequence[schema.Round], federated: schema.Score | None) -> schema.Comparison | None:
        baselines = self._evidence.baselines or self._baselines(rounds)
        if baselines is None:
            return None
        trained = sum(each.number > 0 for each in rounds)
        if baselines.rounds != trained:
            self._missing.append(
                f"an equal budget: baselines had that of {baselines.rounds} rounds, the plant {trained}"
            )
        windows = self._evidence.gateway_windows
        found = tuple(
            schema.Local(agent=_short(name), windows=len(windows[name]), score=_score(measured))
            for name, measured in baselines.local.items()
        )
        return schema.Comparison(
            rounds=baselines.rounds,
            central=_score(baselines.central),
            central_epoch=baselines.central_epoch,
            central_epochs=baselines.central_epochs,
            locals=found,
            local_mean=_mean([each.score for each in found]),
            best_local=max(found, key=lambda each: each.score.accuracy_share).agent,
            federated=federated,
        )

    def _baselines(self, rounds: Sequence[schema.Round]) -> Baselines | None:
        """Trained here, from the run's own M0, for as many rounds as the plant ran."""
        evidence = self._evidence
        m0 = next((each.model for each in rounds if each.number == 0), None)
        data = None if m0 is None else read_model(evidence.state_dir, m0)
        trained = sum(each.number > 0 for each in rounds)
        if data is None or trained == 0:
            self._missing.append("the comparison: there is no M0, or no round, to start from")
            return None
        return compute(
            evidence.task_path,
            data,
            evidence.gateway_windows,
            evidence.validation_windows,
            evidence.report_windows,
            evidence.plan,
            rounds=trained,
            seed=evidence.seed,
        )

    # --- the final model ------------------------------------------------------------------------

    def _explanation(self, digest: Digest) -> schema.Explanation | None:
        model, windows = self._model(digest), self._evidence.report_windows
        assert model is not None  # `_final` hands out only what is there
        row = int(np.random.default_rng(self._evidence.seed).integers(len(windows)))
        window = windows.inputs[row]
        lime = lime_attributions(self._task, model, window, windows.inputs, self._evidence.seed)
        gradient = gradient_attributions(self._task, model, window)
        heads = []
        agreement = {}
        for column, head in enumerate(self._task.heads):
            by_lime, by_gradient = lime[head.name], gradient[head.name]
            label = int(windows.labels[row, column])
            order = np.argsort(-np.abs(by_lime.weights), kind="stable")
            names = group_names(self._task)
            agreement[head.name] = _spearman(np.abs(by_lime.weights), np.abs(by_gradient.weights))
            heads.append(
                schema.HeadExplanation(
                    head=head.name,
                    predicted=by_lime.class_name,
                    truth="unknown" if label == UNKNOWN else head.classes[label],
                    confidence_share=by_lime.probability,
                    groups=tuple(
                        schema.Weighed(
                            group=names[i], lime=float(by_lime.weights[i]), gradient=float(by_gradient.weights[i])
                        )
                        for i in order
                    ),
                )
            )
        return schema.Explanation(model=digest, window=row, rank_agreement=agreement, heads=tuple(heads))

    def _calibration(self, digest: Digest) -> schema.Calibration:
        model, windows = self._model(digest), self._evidence.report_windows
        assert model is not None  # as above
        probabilities = self._task.predict(model, windows.inputs)
        confidences, hits, heads = [], [], []
        for column, head in enumerate(self._task.heads):
            known = windows.labels[:, column] != UNKNOWN
            if not known.any():
                continue
            given, truth = probabilities[head.name][known], windows.labels[known, column]
            confidences.append(given.max(axis=1).astype(np.float64))
            hits.append((given.argmax(axis=1) == truth).astype(np.float64))
            heads.append(
                schema.HeadCalibration(
                    head=head.name,
                    mean_confidence_share=float(confidences[-1].mean()),
                    accuracy_share=float(hits[-1].mean()),
                )
            )
        confidence, hit = np.concatenate(confidences), np.concatenate(hits)
        bins = _bins(confidence, hit)
        gaps = [
            abs(each.mean_confidence_share - each.accuracy_share) * each.predictions
            for each in bins
            if each.mean_confidence_share is not None and each.accuracy_share is not None
        ]
        return schema.Calibration(
            mean_confidence_share=float(confidence.mean()),
            accuracy_share=float(hit.mean()),
            expected_error_share=sum(gaps) / len(confidence),
            heads=tuple(heads),
            bins=bins,
        )


# --- small things -------------------------------------------------------------------------------


def _verdict(
    rounds: Sequence[schema.Round], federated: schema.Score | None, comparison: schema.Comparison | None
) -> schema.Verdict:
    """Round 0 counts as neither: M0 is where training begins."""
    outcomes = [each.outcome for each in rounds if each.number > 0]
    deployed, refused = outcomes.count("deployed"), outcomes.count("refused")
    return schema.Verdict(
        deployed=deployed,
        refused=refused,
        other=len(outcomes) - deployed - refused,
        federated=federated,
        local_mean_accuracy_share=comparison.local_mean.accuracy_share if comparison else None,
        local_best_accuracy_share=max(each.score.accuracy_share for each in comparison.locals)
        if comparison
        else None,
        central_accuracy_share=comparison.central.accuracy_share if comparison else None,
    )


def _score(measured: Measured) -> schema.Score:
    return schema.Score(
        loss_nats=measured.loss, accuracy_share=measured.accuracy, head_accuracy_share=dict(measured.per_head)
    )


def _mean(scores: Sequence[schema.Score]) -> schema.Score:
    heads = scores[0].head_accuracy_share
    return schema.Score(
        loss_nats=float(np.mean([score.loss_nats for score in scores])),
        accuracy_share=float(np.mean([score.accuracy_share for score in scores])),
        head_accuracy_share={
            head: float(np.mean([score.head_accuracy_share[head] for score in scores])) for head in heads
        },
    )


def _phases(entered_ms: Mapping[str, int]) -> dict[str, float]:
    """State → seconds until the next one was entered; the last state has no end."""
    ordered = sorted(entered_ms.items(), key=lambda item: item[1])
    return {state: (end - start) / 1000 for (state, start), (_, end) in pairwise(ordered)}


def _bins(confidence: NDArray[np.float64], hit: NDArray[np.float64]) -> tuple[schema.Bin, ...]:
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = numbers == number
        count = int(inside.sum())
        bins.append(
            schema.Bin(
                low_share=number / BINS,
                high_share=(number + 1) / BINS,
                predictions=count,
                mean_confidence_share=float(confidence[inside].mean()) if count else None,
                accuracy_share=float(hit[inside].mean()) if count else None,
            )
        )
    return tuple(bins)


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation; 0 where one of them has no order at all."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    first, second = (np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def _known(digest: Digest | None) -> Digest | None:
    return None if digest == NO_DIGEST else digest


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _short(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"
