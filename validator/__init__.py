"""Validator: recomputes the sum, measures the candidate on its own reference set, votes."""
