"""What the stages need from the world, as Protocols. Adapters live in backends/ and channels/."""
