"""Proofs of what no schedule can beat."""
