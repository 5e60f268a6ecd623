"""Providers: one file, one vendor or protocol. A new file is found by the registry and by the conformance suite."""
