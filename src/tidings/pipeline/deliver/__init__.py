"""deliver: a delivery is checked once more, rendered and handed to a provider, whose answer becomes facts."""
