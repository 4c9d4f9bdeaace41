"""What a model will need, before anything of it is shared."""
