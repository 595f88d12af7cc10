"""Options from settings, and the meaning of their values."""
