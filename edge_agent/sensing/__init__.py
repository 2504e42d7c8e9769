"""From what a plant publishes to readings of twins: mapping, units, decoding, Sparkplug B, and what may pass on."""
