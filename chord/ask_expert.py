"""Problems -> expert traces by a language model that vLLM serves; each is right, as the study's grader has it.

chord ask-expert --study config/studies/NAME.yaml --traces-of expert --problems FILE --expert MODEL_DIR
    --tokenizer MODEL_DIR --state DIR --traces FILE --counts FILE --manifest FILE

Every problem is asked several times, each time under a seed of its own. What was answered is kept in `--state`, shard
by shard: a run that was killed goes on after the last finished shard, and another grader asks nothing again.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chord.asking import Asking, asking_of, check_fit
from chord.config import uses
from chord.config.lock import read_lock
from chord.config.sets import asked_expert, expert_of
from chord.config.slices import of_traces
from chord.config.study import ExpertServed, Study
from chord.provenance.files import UserError, write_atomically
from chord.provenance.lease import Lease
from chord.provenance.manifest import Manifest
from chord.provenance.options import Number
from chord.records import Answer, Problem, Trace, read_lines, write_lines
from chord.sampling.server import Settings, serving
from chord.sampling.vllm_options import check_options
from chord.settings import ConfigError
from chord.tasks.graders import Grader
from chord.tasks.shards import finish, finished
from chord.tasks.studies import read_study
from chord.tasks.verified import Judged, kept, lengths, why_none, yields

VERB = "chord ask-expert"
OUTSIDE = "a character outside the alphabet"
TOO_LONG = "too long for the policy"
CUT = "cut at the token limit"
END_TOKEN = 1


def main() -> None:
    """Asks what was not answered yet, then verifies, chooses and writes."""
    args = _arguments()
    study = read_study(args.study)
    expert, lock = _served(study, args.traces_of), read_lock(args.study.resolve().parents[2], study.name)
    decided_by = of_traces(study, args.traces_of, lock)
    problems = read_lines(args.problems, Problem)
    inputs = {"problems": args.problems, "expert": args.expert}
    with Manifest.recording(
        args.manifest,
        verb=VERB,
        step="engines",
        uses=uses.of_traces(study, args.traces_of),
        decided_by=decided_by,
        inputs=inputs | ({"tokenizer": args.tokenizer} if args.tokenizer else {}),
        outputs={"traces": args.traces, "counts": args.counts},
        seeds={"data": study.data.seed},
    ) as recording:
        check_options(expert.options, f"config/studies/{study.name}.yaml: expert.options")
        asking = asking_of(study, expert, args.traces_of, args.expert)
        with Lease.acquire(args.state):
            answers, recording.extra["served"] = answered(asking, problems, args)
        judged = judge(study, problems, answers, *measured_in(study, args.tokenizer))
        traces, rejected = chosen(study, expert, problems, judged)
        _refuse_too_few(args, traces, rejected, len(problems))
        recording.extra |= asking.recorded(problems[0].prompt)
        write_atomically(args.traces, write_lines(traces))
        told = _counts(args.traces_of, expert, traces, rejected, problems, judged)
        told["length_measured_in"] = measured_in(study, args.tokenizer)[1]
        write_atomically(args.counts, json.dumps(told, indent=1) + "\n")
    print(f"{args.traces_of}: {len(traces)} traces kept, {rejected.total()} problems without one", flush=True)


def answered(
    asking: Asking, problems: Sequence[Problem], args: argparse.Namespace
) -> tuple[list[Answer], dict[str, Any]]:
    """All answers, those of finished shards and those that are sampled now; and what is to be told of it."""
    parts, expert = asking.parts(problems), asking.expert
    found = {part.shard.number: finished(args.state, part.shard) for part in parts}
    missing = [part for part in parts if found[part.shard.number] is None]
    told: dict[str, Any] = {**asking.alike, "shards": {"found": len(parts) - len(missing), "made": len(missing)}}
    told |= {"requests": sum(len(part.requests) for part in missing), "replicas": expert.replicas}
    if missing:
        settings = Settings(
            replicas=expert.replicas,
            tensor_parallel=expert.tensor_parallel,
            options=expert.options,
            where=f"{args.study}: expert",
            threads=args.threads,
            ready_seconds=60 * expert.start_minutes,
        )
        with serving(args.expert, settings, args.state) as servers:
            told["devices"] = [server.devices or "cpu" for server in servers]
            check_fit(servers[0], missing, asking.wish)
            for part in missing:
                found[part.shard.number] = made = asking.ask(servers, part)
                finish(args.state, part.shard, made, {"served": dict(asking.alike)})
                print(f"{part.shard.name}: {len(made)} answers, {len(parts)} shards in all", flush=True)
    return [answer for part in parts for answer in found[part.shard.number] or []], told


def judge(
    study: Study, problems: Sequence[Problem], answers: Sequence[Answer], measure: Callable[[str], int], measured: str
) -> dict[str, list[Judged]]:
    """Every answer with what the grader says of it, by problem.

    One that was cut off is no trace, even if what it has is right: its end would be taught where none was.
    """
    wanted = {problem.id: problem.answer for problem in problems}
    judged: dict[str, list[Judged]] = {problem.id: [] for problem in problems}
    alphabet, most = study.model.alphabet, study.rollouts.max_response_tokens
    with Grader(study.grading) as grader:
        outcomes = grader.grade_all([(answer.text, answer.finish, wanted[answer.problem]) for answer in answers])
        for answer, outcome in zip(answers, outcomes, strict=True):
            tokens = measure(answer.text)
            misfit = TOO_LONG if tokens > most else CUT if answer.finish == "length" else None
            if alphabet is not None and not set(answer.text) <= set(alphabet):
                misfit = OUTSIDE
            judged[answer.problem].append(Judged(answer, outcome, tokens, misfit))
    return judged


def chosen(
    study: Study, expert: ExpertServed, problems: Sequence[Problem], judged: Mapping[str, Sequence[Judged]]
) -> tuple[list[Trace], Counter[str]]:
    """One trace for each problem with a verified answer, and how many problems have none, by the reason."""
    traces: list[Trace] = []
    rejected: Counter[str] = Counter()
    for problem in problems:
        best = kept(judged[problem.id], expert.keep, study.data.seed)
        if best is None:
            rejected[why_none(judged[problem.id])] += 1
            continue
        name = f"{problem.id}.sample-{best.answer.sample}"
        traces.append(Trace(name, problem.id, problem.prompt, best.answer.text, expert.name))
    return traces, rejected


def measured_in(study: Study, tokenizer: Path | None) -> tuple[Callable[[str], int], str]:
    """How many tokens of the policy a response has with its end token, and how that is known."""
    if study.model.source == "random":
        return lambda response: len(response) + END_TOKEN, "characters: each is one token of the study's own model"
    from transformers import AutoTokenizer

    from chord.tasks.prompts import response_ids

    if tokenizer is None or not (tokenizer / "tokenizer.json").is_file():
        found = "nothing" if tokenizer is None else f"no tokenizer.json in {tokenizer}"
        raise UserError(f"--tokenizer: found {found}, expected the folder of the study's base model")
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return lambda response: len(response_ids(loaded, response)), "tokens of the study's model"


def _served(study: Study, traces: str) -> ExpertServed:
    expert = expert_of(study, traces)
    if expert.source != "served":
        key = (
            "expert" if asked_expert(study, traces) == "expert" else f"other_experts.{traces.partition('-')[2]}.expert"
        )
        raise ConfigError(
            f"config/studies/{study.name}.yaml: {key}.source is {expert.source}, expected served; other experts are"
            " asked by chord demonstrate"
        )
    return expert


def _refuse_too_few(args: argparse.Namespace, traces: Sequence[Trace], rejected: Counter[str], problems: int) -> None:
    """Raises UserError if no trace is right, or if a training prompt is left without its trace."""
    if not traces or (args.traces_of == "aligned" and rejected):
        raise UserError(
            f"{args.problems}: found {rejected.total()} of {problems} problems without a right {args.traces_of} trace"
            f" ({dict(rejected)}), expected {'one each' if args.traces_of == 'aligned' else 'some'}; change"
            " expert.samples_per_problem, expert.max_response_tokens, expert.prompt, or the expert"
        )


def _counts(
    name: str,
    expert: ExpertServed,
    traces: Sequence[Trace],
    rejected: Counter[str],
    problems: Sequence[Problem],
    judged: Mapping[str, Sequence[Judged]],
) -> dict[str, Any]:
    """How many traces were kept, why others were not, how long they are, and the yield by difficulty."""
    of_traces = {trace.id: trace for trace in traces}
    tokens = [
        one.tokens
        for answers in judged.values()
        for one in answers
        if f"{one.answer.problem}.sample-{one.answer.sample}" in of_traces
    ]
    return {
        "traces": name,
        "writer": expert.name,
        "kept": len(traces),
        "rejected": dict(sorted(rejected.items())),
        "response_tokens": lengths(tokens),
        "samples_per_problem": expert.samples_per_problem,
        "by_difficulty": yields(judged, problems),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Expert traces by a served model, each found right.")
    for name, required, what in (
        ("study", True, "config/studies/NAME.yaml"),
        ("problems", True, "the problems to answer, JSON lines"),
        ("expert", True, "folder of the expert's model and its tokenizer"),
        ("tokenizer", False, "folder of the study's base model, where it is not trained by the study"),
        ("state", True, "folder for finished shards and the servers' logs; the same folder goes on with them"),
        ("traces", True, "file for the traces"),
        ("counts", True, "file for what was kept, rejected and why, and the yield"),
        ("manifest", True, "file for what this command read, ran on and wrote"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=required, help=what)
    parser.add_argument("--traces-of", required=True, help="expert, expert-NAME; aligned (of the training problems)")
    parser.add_argument("--threads", action=Number, default=1, help="of the processor, for each replica on a CPU")
    return parser.parse_args()
