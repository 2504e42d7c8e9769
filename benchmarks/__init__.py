"""Measurements to reproduce: each module runs with `python -m benchmarks.NAME`."""
