"""Providers of the channel inapp."""
