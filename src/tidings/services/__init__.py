"""What the API asks for and is no stage: changes to what waits, dead letters, recurrences."""
