"""Who calls, and becoming that."""
