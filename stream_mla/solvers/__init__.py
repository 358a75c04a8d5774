"""From a problem to a good schedule."""
