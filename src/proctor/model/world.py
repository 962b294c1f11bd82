"""The simulated world (another engineer, SIM, is writing this file and simulate.py right now)."""
