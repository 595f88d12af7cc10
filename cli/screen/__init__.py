"""Output on the terminal: tables, curves, progress, headers."""
