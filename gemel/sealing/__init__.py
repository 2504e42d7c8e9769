"""Sealed updates: packing and budgets (pure), and three ports split by who holds which key.

packing, budget, frames   pure: integers in slots, what a policy costs, the two formats
ports                     what a sealer, a summer and an opener promise
sealer, summer, opener    scheme bfv-packed over TenSEAL; only custodian/ imports opener
work                      the functions that services run in worker processes
"""
