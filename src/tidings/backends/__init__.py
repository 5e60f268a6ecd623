"""Adapters of the ports. Known to wiring alone."""
