"""Providers: one file for each vendor or protocol. The registry and the conformance suite find a new file by itself."""
