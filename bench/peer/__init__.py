"""The peer: the notification pipeline that most teams write by hand, built as its libraries' documentation shows."""
