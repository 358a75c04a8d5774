"""A better schedule from a schedule."""
