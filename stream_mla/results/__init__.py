"""Here is what is kept of an evaluation, and how it is shown."""
