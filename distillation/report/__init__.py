"""Statistics of predictions, and how they are shown."""
