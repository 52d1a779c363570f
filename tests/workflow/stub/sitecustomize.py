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
    "judge": ((), ("json", "markdown", "html")),
    "report": ((), ("html",)),
}


def stand_in(verb: str, arguments: list[str]) -> None:
    """Write every output that the command line names, and the manifest."""
    import json
    from pathlib import Path

    from chord.config.project import load
    from chord.provenance.manifest import Manifest
    from chord.steps import Dag

    flags = dict(zip(arguments, arguments[1:], strict=False))
    manifest = Path(flags["--manifest"])
    results = Path(*manifest.parts[:2])
    key = manifest.relative_to(results).as_posix()
    seeds = [int(part.removeprefix("seed-")) for part in manifest.parts if part.startswith("seed-")]
    if "--seeds" in arguments:
        after = arguments[arguments.index("--seeds") + 1 :]
        seeds = [int(word) for word in after[: next(i for i, word in enumerate(after) if word.startswith("--"))]]
    project = load(Path("."), results.name, tuple(seeds))
    if verb in ("judge", "report"):
        after = arguments[arguments.index("--artefacts") + 1 :]
        chosen = after[: next(i for i, word in enumerate(after) if word.startswith("--"))]
        project = load(Path("."), results.name, tuple(seeds), {"artefacts": chosen})
    expected = Dag(project).specs[key]
    reads, writes = FLAGS[verb]
    inputs = {flag: Path(flags[f"--{flag}"]) for flag in reads if f"--{flag}" in flags}
    inputs |= more_inputs(verb, arguments, manifest, project)
    outputs = {
        name.rstrip("/"): Path(flags[f"--{name.rstrip('/')}"]) for name in writes if f"--{name.rstrip('/')}" in flags
    }
    with Manifest.recording(
        manifest,
        expected,
        inputs=inputs,
        outputs=outputs,
    ):
        for name in writes:
            path = outputs.get(name.rstrip("/"))
            if path is not None:
                file = path / "file" if name.endswith("/") else path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(arguments) + "\n")


def more_inputs(verb, arguments, manifest, project):
    """What a verb reads without a flag for each file."""
    from pathlib import Path

    results = Path(*manifest.parts[:2])
    if verb == "choose":
        after = arguments[arguments.index("--candidates") + 1 :]
        runs = [Path(word) for word in after[: next(i for i, word in enumerate(after) if word.startswith("--"))]]
        names = ("model", "candidates", "metrics.jsonl", "validation.json")
        return {f"{name} of {run}": run / name for run in runs for name in names if (run / name).exists()}
    if verb in ("tabulate", "plot"):
        import importlib

        name = arguments[arguments.index("--artefact") + 1]
        from chord import VERBS

        module = importlib.import_module(VERBS[verb].module)
        return module._inputs(project, project.artefacts[name], results)
    if verb == "judge":
        from chord.config.project import judged_files

        return {name: results / name for name in judged_files(project)}
    if verb == "report":
        files = [path for name in project.choice.artefacts for path in results.glob(f"{name}.*")]
        files.append(results / "claims.json")
        names = ("*.manifest.json", "timing.jsonl", "answers.jsonl", "scores.json")
        files += [path for name in names for path in results.glob(f"**/{name}") if path != manifest]
        return {str(path): path for path in files if path.suffix in (".json", ".svg", ".jsonl")}
    return {}


if "-m" in sys.orig_argv:
    at = sys.orig_argv.index("-m") + 2
    if sys.orig_argv[at - 1 : at] == ["chord"] and at < len(sys.orig_argv) and sys.orig_argv[at] in FLAGS:
        sys.path.insert(0, "")
        sys.argv = ["-m", *sys.orig_argv[at + 1 :]]
        stand_in(sys.orig_argv[at], sys.orig_argv[at + 1 :])
        sys.stdout.flush()
        import os

        os._exit(0)
