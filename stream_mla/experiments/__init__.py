"""Many points: fronts, what-ifs and reproductions."""
