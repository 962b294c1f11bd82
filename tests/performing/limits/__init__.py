"""What a caller's cgroups leave it of the machine."""
