"""The drawing (another engineer, TESTING, is writing this file and proctor.testing right now)."""
