"""Rounds: recurring work that one process at a time does for all. No stage depends on it."""
