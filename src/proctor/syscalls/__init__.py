"""What system calls are: numbers, architectures, groups, signatures, constants."""
