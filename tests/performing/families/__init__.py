"""Each family by itself: errors in the kernel's order, and what is done as the kernel does it."""
