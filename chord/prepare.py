"""Raw problems -> the splits and benchmarks of a study, none of which shares a prompt with another.

python -m chord.prepare --study config/studies/demo.yaml --problems DIR --benchmarks DIR --counts FILE [--manifest FILE]
"""

import argparse
import json
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chord.config import Study
from chord.provenance.files import run_verb, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import write_lines
from chord.tasks.problems import Draw, Pool
from chord.tasks.studies import read_study


def main() -> None:
    """Draws everything, then writes everything: a study that cannot be filled leaves no file behind."""
    args = _arguments()
    study = read_study(args.study)
    files = {name: args.problems / f"{name}.jsonl" for name in ("train", "validation", "expert")}
    files |= {f"benchmark {name}": args.benchmarks / f"{name}.jsonl" for name in study.benchmarks}
    files |= {"base": args.problems / "base.jsonl"} if study.base_corpus else {}
    recording = nullcontext()
    if args.manifest:
        recording = Manifest.recording(
            args.manifest,
            verb="chord.prepare",
            inputs={"study": args.study},
            outputs={**files, "counts": args.counts},
            seeds={"data": study.data.seed},
        )
    with recording:
        draws = drawn(study)
        texts = {files[name]: write_lines(draw.problems) for name, draw in draws.items()}
        for file, text in texts.items():
            write_atomically(file, text)
        write_atomically(args.counts, json.dumps(counts(study, draws), indent=1) + "\n")
    for name, draw in draws.items():
        print(f"{name}: {len(draw.problems)} problems of {draw.drawn} drawn", flush=True)


def drawn(study: Study) -> dict[str, Draw]:
    """The problems of every split and benchmark and of the base corpus, which comes last and avoids all others."""
    pool = Pool(study)
    data = study.data
    draws = {
        "train": pool.split("data.train", data.train),
        "validation": pool.split("data.validation", data.validation),
        "expert": pool.split("data.expert", data.expert),
    }
    for name, benchmark in study.benchmarks.items():
        draws[f"benchmark {name}"] = pool.split(f"benchmarks.{name}.problems", benchmark.problems)
    if study.base_corpus:
        draws["base"] = pool.corpus()
    return draws


def counts(study: Study, draws: dict[str, Draw]) -> dict[str, Any]:
    """What was drawn, what was dropped and why, what was kept."""
    return {
        "study": study.name,
        "generator": f"reasoning-gym {version('reasoning-gym')}",
        "splits": {
            name: {
                "drawn": draw.drawn,
                "dropped": dict(sorted(draw.dropped.items())),
                "kept": len(draw.problems),
                "distinct_prompts": len({problem.prompt for problem in draw.problems}),
            }
            for name, draw in draws.items()
        },
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord.prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="config/studies/NAME.yaml")
    parser.add_argument(
        "--problems", type=Path, required=True, help="folder for train, validation, expert, base .jsonl"
    )
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder for one .jsonl a benchmark")
    parser.add_argument("--counts", type=Path, required=True, help="file for what was drawn, dropped and kept")
    parser.add_argument("--manifest", type=Path, help="file for what this command read, ran on and wrote")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord.prepare", main)
