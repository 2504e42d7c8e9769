"""Scheme ckks: real numbers under encryption, added and opened approximately, as in the paper.

- plan: what a policy costs, how exact its sums are, and how much noise floods an opening (pure)
- frames: bodies (pure)
- flooding: the noise that an opening adds, and why so much
- context: the one place that knows the library; sealer, summer, opener: the parties. Only custodian/ imports opener
- distances: how far updates lie apart, without opening them. No round uses it

docs/decisions/0011-ckks-is-flooded.md says what it is for, and what is left when its sums are opened.
"""
