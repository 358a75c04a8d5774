"""Schedulers: from a priced problem to a schedule."""
