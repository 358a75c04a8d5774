"""Every file format that is read."""
