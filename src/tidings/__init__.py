"""Tidings: one API call, every channel, and an account of every single notification."""
