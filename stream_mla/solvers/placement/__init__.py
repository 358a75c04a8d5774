"""Choosing the core of every group of tiles, and the order of tiles."""
