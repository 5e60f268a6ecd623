"""Runtime: what every stage has around it: reading a queue, beginning, setting aside, stopping, shares."""
