"""How settings become options, and what the values of options stand for."""
