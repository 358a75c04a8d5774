"""From an operator graph to a graph of tiles."""
