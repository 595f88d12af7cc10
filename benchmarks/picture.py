"""Draw a run: its losses as they fell, and a text that its model wrote, as results/training.svg.

mlx-gpt train --eval-interval 250 --run-dir runs/picture
python benchmarks/picture.py runs/picture
"""

import argparse
import platform
import textwrap
from pathlib import Path

import mlx_nanogpt as gpt
import matplotlib
from mlx_nanogpt.machine import describe_machine

matplotlib.use("svg")
from matplotlib import pyplot as plt

OUT = Path(__file__).parent / "results" / "training.svg"
TOKENS, LINES, WIDTH = 900, 22, 56  # drawn; lines and characters of them that are shown


def written_text(run: gpt.Run) -> str:
    """Whole lines that the model of `run` writes."""
    ids = gpt.generate(run.load_model(), [run.tokenizer.start_token], TOKENS, run.train_config.seed)
    lines = run.tokenizer.decode(ids).strip().splitlines()
    folded = [part for line in lines for part in textwrap.wrap(line, WIDTH) or [""]]
    return "\n".join(folded[:LINES])


def draw(run: gpt.Run, out: Path) -> None:
    history, shape, machine = run.history(), run.gpt_config, describe_machine()
    figure, (losses, text) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 1), layout="constrained")
    iterations = [each.iteration for each in history]
    losses.plot(iterations, [each.train_loss for each in history], label="training split")
    losses.plot(iterations, [each.valid_loss for each in history], label="validation split")
    losses.set(xlabel="iteration", ylabel="loss, nats per character", ylim=(None, history[0].valid_loss * 1.05))
    losses.grid(alpha=0.3)
    losses.legend()
    text.axis("off")
    text.set_title("and then it writes", fontsize=10, loc="left")
    text.text(0, 0.98, written_text(run), family="monospace", fontsize=7.5, va="top")
    parameters = gpt.GPT(shape).num_parameters()
    figure.suptitle(
        f"A GPT of {parameters:,} parameters learns from {run.corpus.name} ({machine['cores']} cores of {machine['chip']}, "
        f"mlx {machine['versions']['mlx']}, Python {platform.python_version()})",
        fontsize=10,
    )
    out.parent.mkdir(exist_ok=True)
    plt.rcParams["svg.fonttype"] = "none"  # text stays text: the file is small, and can be searched
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    draw(gpt.open_run(arguments.run), arguments.out)
    print(arguments.out)
