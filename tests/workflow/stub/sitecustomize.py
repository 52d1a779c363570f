"""Stands for every verb where only the graph is tested: `python -m chord VERB` makes the files that its flags name.

Python imports this module before anything else, where this folder is on PYTHONPATH. It computes nothing, but the
manifest is a real one of the real verb: its code, settings, pins and files. So the project's own code may be edited.
"""

import sys

# Of each verb: flags of what it reads, and of what it writes; a name that ends in `/` is a folder with one file in it.
FLAGS = {
    "prepare": (("tokenizer",), ("problems", "counts")),
    "demonstrate": (("problems", "tokenizer"), ("traces", "counts")),
    "ask-expert": (("problems", "expert", "tokenizer"), ("traces", "counts")),
    "train": (
        ("run", "start", "prompts", "traces", "solved", "validation"),
        ("model/", "metrics", "timing", "tensorboard/", "validation-answers", "candidates/"),
    ),
    "validate": (("answers", "problems"), ("validation",)),
    "choose": ((), ("model/", "metrics", "validation", "chosen")),
    "unpack": ((), ("model/",)),
    "adopt": ((), ("model/",)),
    "generate": (("model", "problems"), ("answers",)),
    "score": (("answers", "problems"), ("scores",)),
    "tabulate": ((), ("json", "markdown", "html")),
    "plot": ((), ("json", "svg", "png")),
    "judge": ((), ("json", "markdown", "html", "svg", "png")),
    "report": ((), ("html",)),
}


def words_after(flag: str, arguments: list[str]) -> list[str]:
    """What a flag is given: all words up to the next flag, none where it is not there."""
    from itertools import takewhile

    after = arguments[arguments.index(flag) + 1 :] if flag in arguments else []
    return list(takewhile(lambda word: not word.startswith("--"), after))


def stand_in(verb: str, arguments: list[str]) -> None:
    """Write every output that the command line names, and the manifest."""
    import json
    from pathlib import Path

    from chord.config.project import load
    from chord.provenance.manifest import Manifest
    from chord.steps import Dag

    manifest = Path(*words_after("--manifest", arguments))
    results = Path(*manifest.parts[:2])
    seeds = [int(part.removeprefix("seed-")) for part in manifest.parts if part.startswith("seed-")]
    seeds = tuple(map(int, words_after("--seeds", arguments))) or tuple(seeds)
    chosen = {"artefacts": words_after("--artefacts", arguments)} if verb in ("judge", "report") else None
    project = load(Path("."), results.name, seeds, chosen)
    reads, writes = FLAGS[verb]
    given = {flag: Path(*words_after(f"--{flag.rstrip('/')}", arguments)) for flag in (*reads, *writes)}
    inputs = {flag: given[flag] for flag in reads if f"--{flag}" in arguments}
    outputs = {flag: given[flag] for flag in writes if f"--{flag.rstrip('/')}" in arguments}
    with Manifest.recording(
        manifest,
        Dag(project).specs[manifest.relative_to(results).as_posix()],
        inputs=inputs | more_inputs(verb, arguments, manifest, project),
        outputs={flag.rstrip("/"): path for flag, path in outputs.items()},
    ):
        for flag, path in outputs.items():
            file = path / "file" if flag.endswith("/") else path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(arguments) + "\n")


def more_inputs(verb, arguments, manifest, project):
    """What a verb reads without a flag for each file."""
    from importlib import import_module
    from pathlib import Path

    from chord import VERBS
    from chord.config.project import judged_files

    results = Path(*manifest.parts[:2])
    if verb == "choose":
        runs = map(Path, words_after("--candidates", arguments))
        names = ("model", "candidates", "metrics.jsonl", "validation.json")
        return {f"{name} of {run}": run / name for run in runs for name in names if (run / name).exists()}
    if verb in ("tabulate", "plot"):
        artefact = project.artefacts[words_after("--artefact", arguments)[0]]
        return import_module(VERBS[verb].module)._inputs(project, artefact, results)
    if verb == "judge":
        return {name: results / name for name in judged_files(project)}
    if verb == "report":
        files = [path for name in project.choice.artefacts for path in results.glob(f"{name}.*")]
        files += results.glob("claims.*")
        names = ("*.manifest.json", "timing.jsonl", "answers.jsonl", "scores.json")
        files += [path for name in names for path in results.glob(f"**/{name}") if path != manifest]
        return {str(path): path for path in files if path.suffix in (".json", ".svg", ".jsonl")}
    return {}


if "-m" in sys.orig_argv:
    at = sys.orig_argv.index("-m") + 2
    if sys.orig_argv[at - 1 : at] == ["chord"] and at < len(sys.orig_argv) and sys.orig_argv[at] in FLAGS:
        import os

        sys.path.insert(0, "")
        sys.argv = ["-m", *sys.orig_argv[at + 1 :]]
        stand_in(sys.orig_argv[at], sys.orig_argv[at + 1 :])
        sys.stdout.flush()
        os._exit(0)
