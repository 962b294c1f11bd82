"""A system-call supervisor for Linux."""
