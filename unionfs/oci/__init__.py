"""Images as values: what comes in from registries and archives, and the store that keeps each layer once."""
