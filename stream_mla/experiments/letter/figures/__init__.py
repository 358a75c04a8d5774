"""The rows and pictures of each figure."""
