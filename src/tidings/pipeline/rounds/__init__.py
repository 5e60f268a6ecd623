"""Rounds: work that one process at a time does for all, again and again. No stage depends on it."""
