"""record: write facts into the history. No other stage writes history."""
