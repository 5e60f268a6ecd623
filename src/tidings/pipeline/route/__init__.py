"""route: a notification becomes one delivery for each address, now or later, or the reason why not."""
