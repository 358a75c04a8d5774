"""A schedule from cores and an order."""
