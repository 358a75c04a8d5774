"""Cutting a graph as a tiling says: geometry only."""
