"""Write machines.md, a row for each machine that was measured, from the files of `mlx-gpt bench --json` in results/.

python benchmarks/machines.py
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from mlx_nanogpt.measure.roofline import expected_seconds

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("results/*-bench.json"))  # put yours there, under such a name
HEAD = """# Machines

NanoLux's benchmark, as `mlx-gpt bench --json FILE` measured it. Times are of 500 iterations, of an estimate of both losses, and of
all 5,000 iterations with 10 estimates. A row with a star is of `--quick`, which extrapolates, and trains for two minutes alone: *race* is
what `--preset minute` then costs on the validation split, in bits a character, and ranks the machines. *Products* is
the arithmetic of a step as a share of the rate of a large matrix product, *roofline* the time that a step is expected to take at least
as a share of the time it took: only Macs are [listed](../mlx_nanogpt/measure/roofline.py). No Mac has been measured yet: see
[how to add yours](README.md#your-machine).

`python benchmarks/machines.py` writes this file from [results](results).

"""
TITLES = [
    "Machine",
    "Backend",
    "Race",
    "First epoch",
    "Average epoch",
    "Estimate",
    "Total",
    "Loss, train",
    "Loss, valid",
    "Tokens/s",
    "Products",
    "Roofline",
    "mlx",
    "Measured",
]


def rows(result: dict) -> Iterator[list[str]]:
    """Yield a row for each backend of a file of `mlx-gpt bench --json`."""
    machine = result["machine"]
    expected = expected_seconds(machine["chip"]) if machine["device"] == "gpu" else None
    race = result.get("race")  # files of older versions have none
    parts = f"{machine['cores']} cores" if machine["device"] == "cpu" else "GPU"
    for backend in result["backends"]:
        metrics, step = backend["metrics"], backend["step_seconds"]["median"]
        times = (metrics[name] for name in ("first_epoch", "average_epoch", "estimate", "total"))
        losses = (metrics[name] for name in ("train_loss", "valid_loss"))
        yield [
            f"{machine['chip']}, {parts}, {machine['os'].split('-')[0]}{' *' if backend['extrapolated'] else ''}",
            backend["backend"],
            f"{race['valid_loss'] / math.log(2):.3f}"
            if race and (result["corpus"], backend["backend"]) == ("tinyshakespeare", "compiled")
            else "-",
            *(f"{seconds:,.1f} s" for seconds in times),
            *("-" if loss is None else f"{loss:.4f}" for loss in losses),
            f"{backend['tokens_per_second']:,.0f}",
            f"{backend['matrix_share']:.0%}",
            "-" if expected is None else f"{expected['step'][0] / step:.0%}",
            machine["versions"]["mlx"],
            machine["date"][:10],
        ]


def table(results: list[dict]) -> str:
    """Return the rows of `results` in Markdown, those who learned most in the race first, and then the fastest."""
    cells = [row for result in results for row in rows(result)]
    cells.sort(key=lambda row: -float(row[TITLES.index("Tokens/s")].replace(",", "")))
    cells.sort(key=lambda row: float(row[TITLES.index("Race")].replace("-", "inf")))
    rule = ["---", "---", *["---:"] * (len(TITLES) - 2)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (TITLES, rule, *cells))


def write() -> str:
    """Return the content of machines.md."""
    return HEAD + table([json.loads(file.read_text(encoding="utf-8")) for file in FILES])


if __name__ == "__main__":
    (HERE / "machines.md").write_text(write(), encoding="utf-8")
    print(f"Written: {HERE / 'machines.md'}, from {', '.join(file.name for file in FILES)}")
