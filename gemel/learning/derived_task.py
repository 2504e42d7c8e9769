"""A task over the windows of another: what it learns is its own, what it learns from is the other's."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.learning.task import Head, Input, Task


@dataclass(frozen=True, slots=True)
class DerivedTask:
    """The half of Task that says what windows are."""

    of: Task

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Those of the other task."""
        return self.of.inputs

    @property
    def window_s(self) -> int:
        """That of the other task."""
        return self.of.window_s

    @property
    def heads(self) -> tuple[Head, ...]:
        """Those of the other task."""
        return self.of.heads
