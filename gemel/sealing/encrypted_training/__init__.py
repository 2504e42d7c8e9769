"""Training on encrypted data (the paper's Algorithm 1): features, labels and weights are sealed.

- plan: sizes, levels and what a round of it costs (pure)
- ring: residues and transforms at this ring's primes
- frames: what a trainer and the custodian send each other (pure)
- context: the one place that knows the library
- trainer: computes on ciphertexts, and sees neither data nor weights nor gradients
- release: masked integers become an ordinary sealed update of the round
- work: what an agent's worker process does
- refresher: the custodian's side; sees masked numbers only. Only custodian/ imports it

docs/decisions/0013-training-on-encrypted-data.md tells how and why.
"""
