"""Models from the `config.json` of a Hugging Face repository."""
