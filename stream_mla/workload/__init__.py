"""Here is what is computed, as operators over named indices."""
