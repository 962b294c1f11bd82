"""The supervisor, simulated on machines that a seed makes up."""
