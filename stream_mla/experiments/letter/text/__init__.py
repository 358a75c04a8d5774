"""What is written about the figures."""
