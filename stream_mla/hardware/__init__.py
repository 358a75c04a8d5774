"""The machine a workload runs on, and what a piece of work or a transfer costs there."""
