"""report.html: the figures of a `schema.Report` set for a person. One file, no script, nothing from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

from gemel.demo.report import charts, schema
from gemel.demo.report.markup import Html, document, join, raw_style, tag

NBSP = "\u00a0"  # keeps a figure and its unit on one line
GROUPS_SHOWN = 10  # of an explanation; report.json has all

PHASES = {
    "open": "train and commit",
    "listed": "publish list",
    "collecting": "collect and add",
    "aggregated": "confirm sum",
    "confirmed": "open sum",
    "opened": "measure, explain",
    "measured": "vote",
    "approved": "offer model",
    "deploying": "deploy",
}

_OUTCOME_TONES = {"deployed": 3, "refused": 4, "aborted": 4, "rolled_back": 2, "unfinished": 0}
_SAFE = "default-src 'none'; style-src 'unsafe-inline'"  # the browser too fetches and runs nothing


def render(report: schema.Report) -> str:
    """The page."""
    sections: Sequence[tuple[str, str, Callable[[schema.Report], Html]]] = (
        ("rounds", "Rounds", _rounds),
        ("learning", "Loss and accuracy", _learning),
        ("change", "Weight change", _change),
        ("comparison", "Against central and local", _comparison),
        ("why", "Why the model says so", _explanation),
        ("confidence", "How sure it may be", _calibration),
        ("lineage", "Lineage", _lineage),
        ("bytes", "Bytes", _sizes),
        ("time", "Time", _time),
        ("missing", "What is not here", _missing),
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_SAFE),
        tag("title", f"Gemel demo plant, seed {report.run.seed}"),
        raw_style(files("gemel.demo.report").joinpath("style.css").read_text()),
    )
    body = join(
        _header(report),
        tag(
            "main",
            tag("nav", *(tag("a", title, href=f"#{name}") for name, title, _ in sections), aria_label="sections"),
            *(tag("section", tag("h2", title), make(report), id=name) for name, title, make in sections),
        ),
        _footer(),
    )
    return document("en", head, body)


# --- head and foot ------------------------------------------------------------------------------


def _header(report: schema.Report) -> Html:
    run = report.run
    facts = {
        "agents": ", ".join(run.agents),
        "seed": run.seed,
        "duration": _seconds(run.duration_s),
        "machine": run.machine,
        "model": f"{run.parameters:,} parameters, {run.epochs_per_round} epochs a round",
        "measured on": f"{run.report_cycles} cycles that nobody trained or voted on",
    }
    if report.gate is not None:
        facts["gate"] = (
            f"median accuracy at least {_percent(report.gate.threshold_share)}, at most "
            f"{_points(report.gate.max_regression_share)} below the model in use, "
            f"approved by {_percent(report.gate.quorum_share)} of the stake"
        )
    return tag(
        "header",
        tag("h1", "Gemel demo plant: what one run learned"),
        tag("p", _verdict_line(report.verdict), class_="verdict" if _above_local(report.verdict) else "verdict none"),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()), class_="facts"),
    )


def _above_local(verdict: schema.Verdict) -> bool:
    if verdict.federated is None or verdict.local_mean_accuracy_share is None:
        return False
    return verdict.federated.accuracy_share > verdict.local_mean_accuracy_share


def _verdict_line(verdict: schema.Verdict) -> str:
    rounds = f"{verdict.deployed} round{'' if verdict.deployed == 1 else 's'} deployed, {verdict.refused} refused"
    if verdict.other:
        rounds += f", {verdict.other} without a verdict"
    if verdict.federated is None:
        return f"{rounds}. No federated model could be measured."
    line = f"{rounds}. Mean accuracy over the heads: federated {_percent(verdict.federated.accuracy_share)}"
    if verdict.local_mean_accuracy_share is None or verdict.central_accuracy_share is None:
        return line + "."
    side = "above" if _above_local(verdict) else "not above"
    return (
        f"{line}, {side} the gateways on their own ({_percent(verdict.local_mean_accuracy_share)} on average, "
        f"{_percent(verdict.local_best_accuracy_share)} the best); "
        f"all data in one place {_percent(verdict.central_accuracy_share)}."
    )


def _footer() -> Html:
    return tag(
        "footer",
        tag("p", "All figures, with their units, stand in report.json beside this page."),
        tag(
            "p",
            "Data: N. Helwig, E. Pignanelli, A. Schütze, «Condition Monitoring of a Complex Hydraulic System Using "
            "Multivariate Statistics», I2MTC 2015, doi 10.1109/I2MTC.2015.7151267; ZeMA, CC BY 4.0.",
        ),
    )


# --- sections -----------------------------------------------------------------------------------


def _rounds(report: schema.Report) -> Html:
    rows = []
    for each in _trained(report):
        approvals = sum(vote.approved for vote in each.votes)
        why = each.reason or ("" if each.outcome == "deployed" else "no reason recorded")
        rows.append(
            [
                each.number,
                _outcome(each.outcome),
                _percent(_of(each.candidate, _accuracy)),
                _percent(_of(each.in_use, _accuracy)),
                _percent(each.contract_accuracy_share),
                _percent(each.contract_baseline_share),
                f"{approvals} of {len(each.votes)}" if each.votes else "—",
                "; ".join(part for part in (why, each.sabotage and f"on purpose: {each.sabotage}") if part) or "—",
            ]
        )
    if not rows:
        return _gap("No round was run.")
    heads = [
        "round",
        "outcome",
        "candidate",
        "in use before",
        "votes: candidate",
        "votes: in use",
        "approvals",
        "why",
    ]
    return join(
        _note(
            "«Candidate» and «in use» are measured here, on the report's cycles. The contract never sees those: it "
            "decides on the medians of what the validators measured on cycles of their own («votes»)."
        ),
        _table(heads, rows, text={7}, left={1}),
    )


def _learning(report: schema.Report) -> Html:
    rounds = report.rounds
    if not any(each.candidate for each in rounds):
        return _gap("No model of this run could be measured.")
    after: list[schema.Score | None] = []
    for each in rounds:
        unchanged = after[-1] if after else each.in_use
        after.append(each.candidate if each.outcome == "deployed" else unchanged)
    refused = [each.candidate if each.outcome == "refused" else None for each in rounds]
    labels = _labels(rounds)
    levels_loss, levels_accuracy = [], []
    if report.comparison is not None:
        levels_loss = [
            charts.Level("central", report.comparison.central.loss_nats, 2),
            charts.Level("local, mean", report.comparison.local_mean.loss_nats, 5),
        ]
        levels_accuracy = [
            charts.Level("central", report.comparison.central.accuracy_share, 2),
            charts.Level("local, mean", report.comparison.local_mean.accuracy_share, 5),
        ]

    def series(pick: Callable[[schema.Score], float]) -> list[charts.Series]:
        drawn = [charts.Series("in use after the round", [_of(score, pick) for score in after], 1)]
        if any(refused):
            drawn.append(charts.Series("refused candidate", [_of(score, pick) for score in refused], 4, marks=True))
        return drawn

    refusals = [
        tag("li", f"Round {each.number}: {_refusal(each, report.gate)}", _sabotage(each))
        for each in rounds
        if each.outcome == "refused"
    ]
    return join(
        _note("On the report's cycles, mean over the heads. Round 0 is M0, before any training."),
        _pair(
            _figure(
                "Loss (mean cross-entropy, nats)", charts.curves(series(_loss), labels, _two, levels=levels_loss)
            ),
            _figure(
                "Accuracy",
                charts.curves(series(_accuracy), labels, _whole_percent, levels=levels_accuracy, top=1.0),
            ),
        ),
        join(tag("h3", "Refused, in the contract's words"), tag("ul", *refusals))
        if refusals
        else _note("No candidate was refused in this run."),
    )


def _change(report: schema.Report) -> Html:
    rounds = _trained(report)
    if not rounds:
        return _gap("No round was run.")
    agents = report.run.agents
    said = [{agent.name: agent for agent in each.agents} for each in rounds]
    lines = [
        charts.Series(
            name,
            [line[name].mean_absolute_change if name in line else None for line in said],
            charts.tone(i),
            dashed=True,
        )
        for i, name in enumerate(agents)
    ]
    lines.append(charts.Series("aggregate", [each.mean_absolute_change for each in rounds], 0))
    parts = [
        (f"round {each.number}", [agent.part_share or 0.0 for agent in each.agents])
        for each in rounds
        if any(agent.part_share is not None for agent in each.agents)
    ]
    rows = [
        [
            each.number,
            agent.name,
            _count(agent.weight),
            _small(agent.mean_absolute_change),
            _percent(agent.part_share),
            _two(agent.loss_nats),
            _percent(agent.accuracy_share),
            "yes" if agent.included else "no",
            agent.refusal or agent.participation or "—",
        ]
        for each in rounds
        for agent in each.agents
    ]
    heads = [
        "round",
        "agent",
        "windows",
        "weight change",
        "part",
        "own loss",
        "own accuracy",
        "in the sum",
        "outcome",
    ]
    shown = _pair(
        _figure(
            "Mean absolute change of a weight in a round",
            charts.curves(lines, _labels(rounds), _small),
        ),
        _figure(
            "Each agent's part: its share of Σ windows · change",
            charts.stacked(parts, agents, _whole_percent, top=1.0)
            if parts
            else _gap("No agent's figures are known."),
        ),
    )
    return join(
        _note(
            "The agents' figures are their own word: updates travel sealed, and nobody else sees one. The "
            "aggregate's change is computed from the models; it is smaller than the agents' where their changes "
            "cancel."
        ),
        shown,
        tag("details", tag("summary", "Figures by round and agent"), _table(heads, rows, text={1, 8})),
    )


def _comparison(report: schema.Report) -> Html:
    found = report.comparison
    if found is None:
        return _gap("The baselines could not be computed; see «What is not here».")
    heads = list(found.central.head_accuracy_share)
    best = "local, " + found.best_local
    pooled = sum(each.windows for each in found.locals)
    scores: list[tuple[str, schema.Score | None, int, int | None]] = [
        ("central", found.central, 2, pooled),
        ("federated", found.federated, 1, None),
        ("local, mean", found.local_mean, 5, None),
        *((f"local, {each.agent}", each.score, 0, each.windows) for each in found.locals),
    ]
    known = [(name, score, tone, windows) for name, score, tone, windows in scores if score is not None]
    rows = [
        [
            f"{name} (best single)" if name == best else name,
            _percent(score.accuracy_share),
            *(_percent(score.head_accuracy_share.get(head)) for head in heads),
            _two(score.loss_nats),
            _count(windows),
        ]
        for name, score, _, windows in known
    ]
    trained = len(_trained(report))
    budget = f"The same budget everywhere: {found.rounds} rounds' worth of epochs from the same M0."
    if found.rounds != trained:
        budget = f"Budgets differ: central and local had {found.rounds} rounds' worth of epochs, the plant {trained}."
    strong = {i for i, (name, *_) in enumerate(known) if name == "federated"}
    ratio = ""
    if found.federated is not None and found.central.accuracy_share > 0:
        share = found.federated.accuracy_share / found.central.accuracy_share
        ratio = f" The federated model reaches {_percent(share)} of the central one's accuracy."
    return join(
        _note(
            f"{budget} Central: all "
            f"gateways' windows in one place, stopped at its best epoch on a validation block (epoch "
            f"{found.central_epoch} of {found.central_epochs}). Local: each gateway with its own windows only. "
            f"Federated is the plant's own model in use at the end; the refused rounds used up budget too.{ratio}"
        ),
        _figure(
            "Mean accuracy over the heads",
            charts.bars([(name, score.accuracy_share, tone) for name, score, tone, _ in known], _percent, top=1.0),
        ),
        _table(["", "mean", *heads, "loss (nats)", "windows"], rows, text={0}, strong=strong),
    )


def _explanation(report: schema.Report) -> Html:
    drifts = [each.explanation_drift for each in _trained(report)]
    drift = (
        _figure(
            "Explanation drift, candidate against the model in use (0 looks at the same, 1 at nothing in common)",
            charts.curves([charts.Series("drift", drifts, 1)], _labels(_trained(report)), _two, top=1.0),
        )
        if any(value is not None for value in drifts)
        else _gap("Explanation drift is not known: the coordinator's measurements are missing.")
    )
    found = report.explanation
    if found is None:
        return join(_gap("There is no final model to explain."), drift)
    return join(
        _note(
            f"One report cycle (number {found.window}, drawn by the seed, not picked) and the model in use at the "
            f"end, {found.model[:12]}. LIME: how the probability of the predicted class changes when the level of "
            "one sensor in one part of the cycle rises by a standard deviation. Gradient · input: what the reading "
            "adds to the class's logit, from the middle of the sensor's range. To the right: speaks for the class. "
            f"The {GROUPS_SHOWN} groups that weigh most for LIME are shown; each side has its own scale."
        ),
        *(_head_explanation(head, found.rank_agreement.get(head.head)) for head in found.heads),
        drift,
    )


def _head_explanation(head: schema.HeadExplanation, agreement: float | None) -> Html:
    right = "right" if head.predicted == head.truth else f"wrong: it is {_words(head.truth)}"
    top = head.groups[:GROUPS_SHOWN]
    return join(
        tag("h3", f"{head.head}: {_words(head.predicted)}, {_percent(head.confidence_share)} sure — {right}"),
        _pair(
            _figure("LIME", charts.diverging([(each.group, each.lime) for each in top], _signed)),
            _figure("Gradient · input", charts.diverging([(each.group, each.gradient) for each in top], _signed)),
        ),
        "" if agreement is None else _note(f"Rank correlation of the two over all groups: {_two(agreement)}."),
    )


def _calibration(report: schema.Report) -> Html:
    found = report.calibration
    if found is None:
        return _gap("There is no final model whose confidence could be held against its accuracy.")
    gap = found.mean_confidence_share - found.accuracy_share
    tendency = "surer than it is right" if gap > 0 else "less sure than it is right"
    points = [
        (each.mean_confidence_share, each.accuracy_share, each.predictions)
        for each in found.bins
        if each.mean_confidence_share is not None and each.accuracy_share is not None
    ]
    rows = [
        [
            each.head,
            _percent(each.mean_confidence_share),
            _percent(each.accuracy_share),
            f"{100 * (each.mean_confidence_share - each.accuracy_share):+.1f}",
        ]
        for each in found.heads
    ]
    all_heads = [
        "all heads",
        _percent(found.mean_confidence_share),
        _percent(found.accuracy_share),
        f"{100 * gap:+.1f}",
    ]
    return join(
        _note(
            f"On average the model is {_percent(found.mean_confidence_share)} sure and "
            f"{_percent(found.accuracy_share)} right: {tendency}, by {_points(abs(gap))}. Expected calibration error "
            f"over ten bins: {_points(found.expected_error_share)}. A confidence in a twin is this model's "
            "opinion of itself, no more."
        ),
        _pair(
            _figure("Confidence against accuracy", charts.reliability(points, _whole_percent)),
            _table(["head", "sure", "right", "difference in points"], [*rows, all_heads], strong={len(rows)}),
        ),
    )


def _lineage(report: schema.Report) -> Html:
    if not report.rounds:
        return _gap("No round is known.")
    return join(
        _note(
            "Each model with the model it was trained from, and the transaction that holds the contract's verdict. "
            "Refused candidates stand aside: nothing was trained from them."
        ),
        tag("ol", *(_model(each) for each in report.rounds), class_="lineage"),
    )


def _model(each: schema.Round) -> Html:
    name = "M0" if each.number == 0 else f"round {each.number}"
    deployed = f", deployment {each.deployment}" if each.deployment is not None else ""
    kept = each.outcome in ("deployed", "rolled_back")
    digests = {
        "model": each.model,
        "parent": each.base,
        "Merkle root of the updates": each.updates_root,
        "root of the list": each.roster_root,
        "sum": each.sum_digest,
        "explanation": each.explanation,
        "verdict's transaction": each.transaction,
    }
    facts = [f"model {_head(each.model)}", f"parent {_head(each.base)}", f"Merkle root {_head(each.updates_root)}"]
    facts += [
        f"transaction {_head(each.transaction)}",
        f"block {_count(each.block)}",
        f"gas of the round {_count(each.gas)}",
    ]
    rows = [[sent.function, tag("code", sent.hash), sent.block, _count(sent.gas)] for sent in each.transactions]
    votes = [
        [
            tag("code", vote.validator),
            _percent(vote.accuracy_share),
            _percent(vote.baseline_share),
            _yes(vote.approved),
        ]
        for vote in each.votes
    ]
    return tag(
        "li",
        tag("strong", name + deployed),
        " ",
        _outcome(each.outcome),
        f" {each.reason}" if each.reason else "",
        tag("div", " · ".join(facts), class_="soft"),
        tag(
            "details",
            tag("summary", "Digests, votes and transactions in full"),
            _table(
                ["", "digest or hash"],
                [[label, tag("code", digest) if digest else "—"] for label, digest in digests.items()],
                text={1},
            ),
            _table(["validator", "candidate", "in use", "approves"], votes, text={0}) if votes else "",
            _table(["transaction", "hash", "block", "gas"], rows, text={1}) if rows else "",
        ),
        class_=None if kept else "side",
    )


def _sizes(report: schema.Report) -> Html:
    parameters = report.run.parameters
    rows = []
    for each in _trained(report):
        sizes = each.sizes
        if sizes is None:
            continue
        wrapped = sizes.wrapped_update_bytes
        rows.append(
            [
                each.number,
                sizes.updates,
                _bytes(sizes.plain_update_bytes),
                _bytes(sizes.sealed_update_bytes),
                _bytes(wrapped),
                "—" if wrapped is None else f"{wrapped / parameters:.2f}",
                "—" if wrapped is None else f"{wrapped / sizes.plain_update_bytes:.2f} times",
                _bytes(sizes.sum_bytes),
                _bytes(sizes.context_bytes),
            ]
        )
    if not rows:
        return _gap("No round has left a record of its updates' sizes.")
    heads = ["round", "updates", "plain float32", "sealed", "wrapped", "bytes a parameter", "wrapped against plain"]
    return join(
        _note(
            f"One update has {parameters:,} parameters: 4 bytes each as plain float32. Sealed is the signed header "
            "and the ciphertexts; wrapped is the same, closed once more for coordinator and validators: what "
            "travels. The sealing context goes once a round to every agent."
        ),
        _table([*heads, "sum", "context"], rows),
    )


def _time(report: schema.Report) -> Html:
    rounds = [each for each in report.rounds if each.phases_s]
    if not rounds:
        return _gap("No round has left its times.")
    states = [state for state in PHASES if any(state in each.phases_s for each in rounds)]
    states += sorted({state for each in rounds for state in each.phases_s} - set(PHASES))
    names = [PHASES.get(state, state) for state in states]
    rows = [(_round_name(each), [each.phases_s.get(state, 0.0) for state in states]) for each in rounds]
    figures = [
        [
            _round_name(each),
            *(_tenths(each.phases_s.get(state)) for state in states),
            _tenths(sum(each.phases_s.values())),
        ]
        for each in rounds
    ]
    return join(
        _note("From one state of the round machine to the next, by the coordinator's clock."),
        _figure("Seconds of a round", charts.stacked(rows, names, _seconds)),
        _table(["seconds", *names, "whole round"], figures),
    )


def _missing(report: schema.Report) -> Html:
    if not report.missing:
        return _note("Nothing: every part of this report was there and could be read.")
    return tag("ul", *(tag("li", line) for line in report.missing))


# --- parts of a page ----------------------------------------------------------------------------


def _trained(report: schema.Report) -> list[schema.Round]:
    return [each for each in report.rounds if each.number > 0]


def _labels(rounds: Sequence[schema.Round]) -> list[str]:
    return [str(each.number) for each in rounds]


def _round_name(each: schema.Round) -> str:
    return "M0" if each.number == 0 else f"round {each.number}"


def _outcome(outcome: str) -> Html:
    return tag("span", outcome.replace("_", " "), class_=f"tag ink-{_OUTCOME_TONES[outcome]}")


def _refusal(each: schema.Round, gate: schema.Gate | None) -> str:
    """The contract's reason, with the figures that it compared."""
    reason = each.reason or "no reason recorded"
    if gate is None:
        return reason
    medians = (
        f"median accuracy {_percent(each.contract_accuracy_share)}, in use {_percent(each.contract_baseline_share)}"
    )
    compared = {
        "no quorum": f"{sum(vote.approved for vote in each.votes)} of {len(each.votes)} votes approve, and less than "
        f"{_percent(gate.quorum_share)} of the stake; {medians}",
        "below threshold": f"{medians}, at least {_percent(gate.threshold_share)} needed",
        "regression": f"{medians}, at most {_points(gate.max_regression_share)} less allowed",
    }
    return f"{reason}: {compared[reason]}" if reason in compared else reason


def _sabotage(each: schema.Round) -> str:
    return f" (on purpose: {each.sabotage})" if each.sabotage else ""


def _note(text: str) -> Html:
    return tag("p", text, class_="soft")


def _gap(text: str) -> Html:
    return tag("p", text, class_="gap")


def _figure(caption: str, picture: Html) -> Html:
    return tag("figure", tag("figcaption", caption), picture)


def _pair(*children: Html) -> Html:
    return tag("div", *children, class_="pair")


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    text: frozenset[int] | set[int] = frozenset(),
    left: frozenset[int] | set[int] = frozenset(),
    strong: frozenset[int] | set[int] = frozenset(),
) -> Html:
    """`text`: numbers of columns that are prose, `left`: that are set to the left; `strong`: of rows set bold."""

    def align(column: int) -> str | None:
        return "text" if column in text else "left" if column in left else None

    def cells(name: str, row: Sequence[object]) -> list[Html]:
        return [tag(name, cell, class_=align(column)) for column, cell in enumerate(row)]

    body = [tag("tr", *cells("td", row), class_="strong" if i in strong else None) for i, row in enumerate(rows)]
    table = tag("table", tag("thead", tag("tr", *cells("th", heads))), tag("tbody", *body))
    return tag("div", table, class_="wide")


# --- figures as text ----------------------------------------------------------------------------


def _of(score: schema.Score | None, pick: Callable[[schema.Score], float]) -> float | None:
    return None if score is None else pick(score)


def _loss(score: schema.Score) -> float:
    return score.loss_nats


def _accuracy(score: schema.Score) -> float:
    return score.accuracy_share


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f}{NBSP}%"


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}{NBSP}%"


def _points(share: float) -> str:
    return f"{100 * share:.1f}{NBSP}points"


def _two(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _small(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"


def _tenths(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}{NBSP}s"


def _count(value: int | None) -> str:
    return "—" if value is None else f"{value:,}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value / 1e6:.2f}{NBSP}MB" if value >= 1e6 else f"{value / 1e3:.1f}{NBSP}kB"


def _head(digest: str | None) -> str:
    return "—" if digest is None else digest[:12]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _yes(value: bool) -> str:  # noqa: FBT001 - a figure as text, like the others
    return "yes" if value else "no"
