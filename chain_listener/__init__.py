"""Chain listener: turns what the chain decided into deployment messages."""
