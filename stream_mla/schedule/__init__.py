"""The scheduling problem, a schedule, its rules, and the bounds that none can beat."""
