"""Where paths lead for a caller: pinned, known, asked about, opened."""
