"""File systems mounted for callers."""
