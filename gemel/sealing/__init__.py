"""Sealed updates: packing and budgets (pure), and three ports split by who holds which key."""
