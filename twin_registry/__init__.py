"""Twin registry: every twin of the plant and its history, durable."""
