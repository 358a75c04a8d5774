"""What is kept of an evaluation, and how it is shown."""
