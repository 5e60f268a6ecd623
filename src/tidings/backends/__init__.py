"""Adapters of the ports. Known to parts.py and the command line alone."""
