"""What all tests share: nothing is skipped unseen, and a failing example comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import TypeVar

# Before anything imports numpy or torch: two cores are shared by the broker, the chain and a dozen processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)
IN_CI = os.environ.get("CI") == "true"

# Speed is never judged by tests, so no deadline; in CI the examples are the same on every run.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "local")


@pytest.fixture(autouse=True)
def recursion_limit_of_services() -> None:
    """Only the embedded chain imports py-evm, which raises it to 100,000: deep JSON would then end the process."""
    sys.setrecursionlimit(1000)


def _fail_if_skipped(report: _Report) -> _Report:
    """In CI everything a test needs is installed, so a skip is a hole in the net. Expected failures stay."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return report if item.get_closest_marker("may_skip") else _fail_if_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_skipped((yield))
