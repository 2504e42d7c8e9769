"""Coordinator: runs the rounds, adds ciphertexts, measures, explains, anchors."""
