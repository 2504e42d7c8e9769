"""How services talk: signed messages, and large payloads that the receiver pulls in chunks."""
