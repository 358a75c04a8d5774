"""What is computed, as operators over named indices."""
