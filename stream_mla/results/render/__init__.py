"""Tables, text and pictures of results."""
