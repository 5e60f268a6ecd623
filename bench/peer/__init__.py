"""The peer: the notification pipeline that most teams write by hand, as its libraries' documentation shows them."""
