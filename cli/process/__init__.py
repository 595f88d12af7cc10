"""The process that runs a command: signals, sleep, ranks, retries."""

import sys

# The command line in a new process. Python would look for modules in the current folder first, where the user's files are.
START = "import sys; sys.path[:] = filter(None, sys.path); from mlx_nanogpt_cli import main; main()"
MLX_GPT = [sys.executable, "-c", START]
