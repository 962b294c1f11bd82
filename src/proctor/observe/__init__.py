"""What became of calls, told to whoever wants to know."""
