"""Pictures of what the model knows."""
