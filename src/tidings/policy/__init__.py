"""The decisions, pure: the time and all randomness are arguments. Imports the model alone."""
