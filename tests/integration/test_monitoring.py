"""Prometheus rules and the Grafana dashboard: checked by promtool, and true to the table of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gemel.host import metrics
from gemel.wire.reasons import Reason

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS, GRAFANA = DEPLOY / "prometheus", DEPLOY / "grafana"
RULES = PROMETHEUS / "rules" / "gemel.yml"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "rounds.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
TABLE = set(re.findall(r"^ +(gemel_\w+)", metrics.__doc__ or "", flags=re.MULTILINE))


@pytest.fixture(scope="module")
def promtool() -> str:
    executable = shutil.which("promtool")
    if executable is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return executable


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr


def names_in(text: str) -> set[str]:
    """Metrics used in `text`, without a histogram's suffixes."""
    found = re.findall(r"\bgemel_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_configuration_and_rules_are_valid(promtool: str) -> None:
    run(promtool, "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_alerts_come_when_they_should_and_not_otherwise(promtool: str) -> None:
    run(promtool, "test", "rules", "rules_test.yml")


def test_expressions_of_the_dashboard_are_valid(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"dashboard:panel:{n}", "expr": expression} for n, expression in enumerate(EXPRESSIONS)]
    rendered = tmp_path / "dashboard.yml"
    rendered.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    run(promtool, "check", "rules", rendered)


def test_rules_and_dashboard_use_only_metrics_of_the_table() -> None:
    assert len(TABLE) > 5
    assert names_in(RULES.read_text()) <= TABLE
    assert names_in("\n".join(EXPRESSIONS)) <= TABLE


def test_rules_use_only_reasons_that_exist() -> None:
    used = {reason for group in re.findall(r'reason=~"([^"]+)"', RULES.read_text()) for reason in group.split("|")}
    assert used
    assert used <= set(Reason)


def test_recorded_series_of_the_dashboard_are_recorded() -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    assert set(re.findall(r"gemel:\w+:\w+", "\n".join(EXPRESSIONS))) <= recorded


def test_every_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    alerts = RULES.read_text().split("- alert: ")[1:]
    assert alerts
    for alert in alerts:
        assert re.search(r"severity: (page|ticket)\b", alert), alert
        assert "summary:" in alert, alert
        assert "action:" in alert, alert


def test_dashboard_shows_the_latency_of_rounds_by_phase() -> None:
    assert any("gemel:round_phase_seconds:p90" in expression for expression in EXPRESSIONS)


def test_dashboard_is_provisioned_with_a_fixed_data_source_and_not_editable() -> None:
    uid = re.search(r"uid: (\S+)", (GRAFANA / "provisioning" / "datasources" / "gemel.yml").read_text())
    assert uid is not None
    sources = [panel["datasource"]["uid"] for panel in DASHBOARD["panels"]]
    sources += [target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert set(sources) == {uid.group(1)}
    assert not DASHBOARD["editable"]
    assert "allowUiUpdates: false" in (GRAFANA / "provisioning" / "dashboards" / "gemel.yml").read_text()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
