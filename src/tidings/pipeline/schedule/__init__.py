"""schedule: what waits goes back into its queue when it is due; recurrences and replays put their items beside it."""
