"""record: facts become history. The only stage that writes history to the store."""
