"""Custodian: holds the round's secret sealing key, and opens one confirmed sum with it."""
