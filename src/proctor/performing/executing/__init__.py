"""The processes that make system calls for callers, and what they are asked."""
