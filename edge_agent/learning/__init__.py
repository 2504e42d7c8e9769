"""The agent as a member of its fleet: examples, rounds, and the models that a quorum approved."""
