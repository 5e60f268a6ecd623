"""Objects: a folder."""
