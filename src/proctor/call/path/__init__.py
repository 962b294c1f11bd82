"""Where a path leads, in the caller's view."""
