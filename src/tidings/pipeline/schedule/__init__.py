"""schedule: put waiting items back into their queues when they are due; send recurrences; carry out replays."""
