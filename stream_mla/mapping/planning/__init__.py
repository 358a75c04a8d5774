"""Choosing how to cut a graph, by estimates."""
