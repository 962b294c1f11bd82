"""What the next monitor knows of calls that were being performed when theirs died."""
