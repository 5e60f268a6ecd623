"""Runtime: the code around every stage: reading a queue, beginning, setting aside, stopping, shares."""
