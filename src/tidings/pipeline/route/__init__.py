"""route: turn each notification into deliveries, one per address, or into the reason why there is none."""
