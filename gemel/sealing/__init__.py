"""Sealed updates: packing and budgets (pure), and three ports split by who holds which key.

- packing, budget, frames, candidate: pure. Integers in slots, what a policy costs, the two formats, and the model
  that everybody computes from an opened sum
- costs: a policy's budget in words, under any scheme
- ports: what a sealer, a summer and an opener promise
- sealer, summer, opener: scheme bfv-packed over TenSEAL (bfv); only custodian/ imports opener
- work: the functions that services run in worker processes
- onetime: scheme one-time-keys; ckks: scheme ckks; schemes: the classes behind the ports by policy
"""
