"""The process of a command: signals, sleep, ranks."""
