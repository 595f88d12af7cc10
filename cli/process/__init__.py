"""The process that runs a command: signals, sleep, ranks."""
