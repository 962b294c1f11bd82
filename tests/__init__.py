"""proctor's tests: one package, a folder for each room."""
