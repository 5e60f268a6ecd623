"""Deterministic simulation: the whole flow in virtual time, over the memory adapters, under seeded faults."""
