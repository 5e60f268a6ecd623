"""Stand-ins for the vendors, in their own wire formats, with faults to order and a viewer of what arrived."""
