"""Stand-ins for the vendors that speak their wire formats, with faults on demand and a viewer of what arrived."""
