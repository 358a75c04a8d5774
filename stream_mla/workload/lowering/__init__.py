"""From a workload to its operator graph."""
