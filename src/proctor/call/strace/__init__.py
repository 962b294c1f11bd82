"""A call as text, the way strace writes it."""
