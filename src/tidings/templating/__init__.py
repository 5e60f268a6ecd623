"""Templates: compile, render, choose the locale, preview."""
