"""Here is what is written about the figures."""
