"""The ports: Protocols that the stages need. Adapters live in backends/ and channels/."""
