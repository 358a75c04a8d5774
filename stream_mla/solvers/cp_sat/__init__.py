"""The CP-SAT model: the only modules that import OR-Tools."""
