"""Where paths lead for a caller, and what is there for it."""
