"""The learning tasks that come with Gemel."""
