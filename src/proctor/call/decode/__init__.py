"""From registers and memory to values."""
