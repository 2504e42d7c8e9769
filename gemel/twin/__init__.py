"""The digital twin itself: properties, quality, age, versions. Pure; agent and registry both use it."""
