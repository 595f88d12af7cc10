"""What the terminal shows: tables, curves, progress, headers."""
