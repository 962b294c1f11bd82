"""What people run: the same comes of it, natively and performed."""
