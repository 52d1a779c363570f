"""`chord VERB ...`, or `python -m chord VERB ...`: runs one verb and imports no other. Completes words in a shell."""

import importlib  # not followed: the digest of a job begins at its verb
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, cast

from chord import VERBS, __version__
from chord.cluster.warm import run_forked

if TYPE_CHECKING:
    import argparse

COMPLETION = 'eval "$(register-python-argcomplete chord)"'
# Options and arguments that take the names of these files, without the suffix.
NAMES = {
    "study": "config/studies/*.yaml",
    "artefacts": "config/experiments/*.yaml",
    "targets": "config/experiments/*.yaml",
    "profile": "profiles/*",
}


def main() -> int:
    """Run one verb. Without a verb prints the list of verbs; returns 2 for an unknown one."""
    run_forked()  # before anything large is loaded
    if "_ARGCOMPLETE" in os.environ:
        complete()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"chord {__version__}")
        return 0
    if name not in VERBS:
        import difflib

        typed = [verb for verb in VERBS if VERBS[verb].is_typed]
        near = difflib.get_close_matches(name.removeprefix("chord."), VERBS, n=1)
        wanted = f"{f'`{near[0]}` (nearest) or ' if near else ''}one of: {', '.join(typed)}"
        print(f"chord: found command '{name}', expected {wanted}", file=sys.stderr)
        return 2
    from chord.provenance.cli import run_verb

    sys.argv = [f"chord {name}", *arguments]
    run_verb(f"chord {name}", lambda: importlib.import_module(VERBS[name].module).main())


def _usage() -> str:
    def listed(is_typed: bool) -> list[str]:
        return [f"  {name:12} {verb.summary}" for name, verb in VERBS.items() if verb.is_typed is is_typed]

    return "\n".join(
        [
            "usage: chord VERB ... | --version",
            "",
            *listed(True),
            "",
            "What rules of the workflow run:",
            *listed(False),
            "",
            "`chord VERB --help` says more.",
            f"The Tab key completes verbs, options, studies and files after: {COMPLETION}",
        ]
    )


# --- completion in a shell -------------------------------------------------------------------------


def complete() -> NoReturn:
    """Answer the shell by argcomplete's protocol, and exit. Imports the verb whose options are asked for, if any."""
    import argparse

    from argcomplete.finders import CompletionFinder

    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = line.split() if line[-1:].isspace() else line.split()[:-1]  # without the word that is being typed
    if len(words) > 1 and words[1] in VERBS:
        parser = parser_of(words[1])
        os.environ["_ARGCOMPLETE"] = "2"  # the command is the second word of the line
    else:
        parser = argparse.ArgumentParser(prog="chord")
        parser.add_argument("--version", action="store_true", help="print the version")
        verbs = parser.add_subparsers()
        for name, verb in VERBS.items():
            verbs.add_parser(name, help=verb.summary)
    CompletionFinder()(parser, always_complete_options=False, default_completer=cast(Any, _values))
    sys.exit()


class _ParserReady(Exception):
    """A verb is about to read its command line."""


def parser_of(verb: str) -> "argparse.ArgumentParser":
    """The parser of a verb. Parsing is the first thing that a `main` does; it is stopped there, so nothing runs."""
    import argparse

    if verb == "resume":  # takes the command line of Snakemake
        return importlib.import_module("snakemake.cli").get_argument_parser()

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _ParserReady(parser)

    parse = argparse.ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_known_args = cast(Any, stop)
    try:
        importlib.import_module(VERBS[verb].module).main()
    except _ParserReady as ready:
        return ready.args[0]
    finally:
        argparse.ArgumentParser.parse_known_args = parse
    raise AssertionError(f"found no parser in chord {verb}")


def _values(prefix: str, action: "argparse.Action", parsed_args: "argparse.Namespace", **_: Any) -> list[str]:
    """What may be the value of an option or argument: names that the project has, else files."""
    import json
    from pathlib import Path

    import yaml
    from argcomplete.completers import FilesCompleter

    if action.dest in NAMES and action.type is not Path:
        names = [path.stem for path in sorted(Path().glob(NAMES[action.dest]))]
        return names + FilesCompleter()(prefix) if action.dest == "targets" else names
    with suppress(Exception):  # the file is absent, or somebody edits it
        if action.dest == "config":
            return [f"study={path.stem}" for path in sorted(Path().glob(NAMES["study"]))]
        if action.dest == "machine":
            return list(yaml.safe_load(Path("config/planning.yaml").read_text(encoding="utf-8"))["machines"])
        if action.dest == "cell":
            rows = json.loads(parsed_args.target.read_text(encoding="utf-8"))["rows"]
            return [f"{row['arm']}/{column}" for row in rows for column in row["cells"]]
    return FilesCompleter()(prefix)


if __name__ == "__main__":
    sys.exit(main())
