"""The twin itself: what is known of one machine, how old and how good it is. Pure; agent and registry both use it."""
