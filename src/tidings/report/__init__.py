"""Reading back: notifications, timelines, tallies."""
