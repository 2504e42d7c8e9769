"""What the services must agree on: topics, signed headers, messages, chunks, tensors, Merkle trees. Pure."""
