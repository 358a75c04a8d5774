"""Schedulers on real instances: ours against greedy list scheduling, simulated annealing and a fixed mapping."""
