"""Stands for a verb where only the graph is tested: makes the files that its flags name, and computes nothing."""

import json
import sys
from pathlib import Path

OUTPUTS = {
    "prepare": {"problems": (), "counts": ()},
    "demonstrate": {"traces": (), "counts": ()},
    "train": {"model": ("model.safetensors",), "metrics": (), "timing": (), "tensorboard": ("events",)},
    "choose": {"model": ("model.safetensors",), "metrics": (), "chosen": ()},
    "generate": {"answers": ()},
    "score": {"scores": ()},
    "tabulate": {"json": (), "markdown": (), "html": ()},
    "plot": {"json": (), "svg": (), "png": ()},
    "report": {"html": ()},
}


def main() -> None:
    """Write every output of this verb: what it holds is the command line."""
    flags = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    text = json.dumps(sys.argv[1:]) + "\n"
    for flag, names in {**OUTPUTS[Path(__file__).stem], "manifest": ()}.items():
        if f"--{flag}" not in flags:
            continue
        path = Path(flags[f"--{flag}"])
        for file in [path / name for name in names] or [path]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


main()
