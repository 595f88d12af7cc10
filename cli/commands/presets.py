"""`mlx-gpt presets`: lists the settings that `mlx-gpt train` can start from."""

import mlx_nanogpt as gpt
from mlx_nanogpt.config import tokens_per_step
from rich.table import Table

from ..screen.consoles import console


def presets() -> None:
    """List the settings that mlx-gpt train can start from."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))  # each preset takes one line of 80 columns
    table.add_column("Preset", no_wrap=True)
    table.add_column("What it is", no_wrap=True)
    for title in ("Parameters", "Layers/heads/\nwidth/context", "Tokens\na step", "Steps", "Loss"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, preset in gpt.PRESETS.items():
        gpt_config, train_config = gpt.preset(name)
        table.add_row(
            name,
            preset.description,
            f"{gpt.GPT(gpt_config).num_parameters():,}",
            f"{gpt_config.n_layer}/{gpt_config.n_head}/{gpt_config.n_embd}/{gpt_config.block_size}",
            f"{tokens_per_step(gpt_config, train_config):,}",
            f"{train_config.num_iter:,}",
            f"{preset.loss:.2f}" if preset.loss else "-",
        )
    console.print(table)
    console.print("Parameters: for the characters of tiny Shakespeare; of gpt2, for GPT-2's tokens.")
    console.print("Loss: validation, nats per character (benchmarks/recipes.md); -: not measured.")
    console.print("\nA first run, and a better one of seven times as many steps:")
    console.print("  mlx-gpt train --preset minute\n  mlx-gpt train --preset modern", soft_wrap=True)
    console.print("All settings of one, as a file to edit:")
    console.print("  mlx-gpt config --preset minute > mine.toml && mlx-gpt train --config mine.toml", soft_wrap=True)
