"""A model that `chord fetch` brought -> its folder in the study, checked against the lock file.

chord adopt --study math [--of base-weak] --model OUT --manifest OUT

Files are linked where results/ lies on the same file system, else copied: a model is not kept twice without need.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from chord.config.project import add_study, project_of
from chord.config.sets import models_from, wanted_model
from chord.data.fetch import checked_files
from chord.errors import UserError
from chord.provenance.files import atomic_folder
from chord.provenance.manifest import Manifest
from chord.steps import of_fetched

VERB = "chord adopt"


def main() -> None:
    """Checks every file of the model, then puts it where the study's trainings start from."""
    args = _arguments()
    project = project_of(args)
    root, study = args.root, project.study
    fetched = models_from(study, "hub")
    if args.of not in fetched:
        raise UserError(
            f"--of: found '{args.of}', which is no model of source `hub` in config/studies/{study.name}.yaml,"
            f" expected one that was fetched: {', '.join(fetched) or 'there is none'}"
        )
    lock = project.lock
    with Manifest.recording(
        args.manifest,
        of_fetched(study, lock, args.of),
        inputs={},
        outputs={"model": args.model},
    ):
        files = checked_files(root, study.name, lock, wanted_model(fetched[args.of]))
        _check_chat(files)
        with atomic_folder(args.model) as made:
            for name, path in files:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path.resolve(), made / name)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(path, made / name)
    print(f"{fetched[args.of].name}: {len(files)} files as in the lock file", flush=True)


def _check_chat(files: list[tuple[str, Path]]) -> None:
    """Raises UserError for a model that cannot be asked: no chat template, no end token."""
    named = dict(files)
    file = named.get("tokenizer_config.json")
    found = json.loads(file.read_text(encoding="utf-8")) if file else {}
    has_template = found.get("chat_template") or any(name.startswith("chat_template.") for name in named)
    if not has_template or not found.get("eos_token"):
        raise UserError(
            f"{file or 'tokenizer_config.json'}: found no chat template or no end token, expected the model of a chat;"
            " name another in `model`"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Take a fetched model as one of a study's.")
    add_study(parser)
    parser.add_argument("--of", default="base", help="which: base (default), base-NAME of other_models, an expert")
    parser.add_argument("--model", type=Path, required=True, help="folder to put the model and its tokenizer in")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the model comes from")
    return parser.parse_args()
