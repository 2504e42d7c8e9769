"""Scheme one-time-keys: a fresh key for each agent and round, of which custodians give out the sum and nothing else.

- plan: what a policy costs and whether its sums come back exactly (pure)
- ring: arithmetic, public elements and sampling
- context, frames, letters: the public string of a round, the bodies, what goes to custodians and comes from them
- sealer, summer, custodian, opener: the parties

docs/decisions/0009-one-time-keys.md says what is proven, what is not, and what is hand-made.
"""
