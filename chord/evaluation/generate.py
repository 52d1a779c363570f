"""A model and a benchmark -> sampled answers, through lm-eval. Nothing is graded here.

chord generate --study NAME --benchmark NAME --model DIR --problems FILE --seed N --answers OUT
    --manifest OUT [--ahead NAME=PROBLEMS=ANSWERS ...]

`--ahead` names other benchmarks of the same model: their answers are sampled by this process too, unless they are
there, and wait for their own jobs (see chord.evaluation.ahead). So start-up is paid once for a model, while a change
of one benchmark still makes only that one again. Such a job ends before anything heavy is imported.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from chord.config.project import add_study, project_of
from chord.config.study import Study
from chord.errors import UserError
from chord.evaluation import ahead
from chord.evaluation.benchmarks import Benchmark, ask, keep_offline, read_benchmark, read_problems
from chord.provenance.cli import Number
from chord.provenance.digest import code_digest
from chord.provenance.environment import key_packages
from chord.provenance.files import file_sha256, tree_hash, write_atomically
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import Problem, write_lines
from chord.steps import of_answers

if TYPE_CHECKING:
    from chord.evaluation.lm_eval_models import PolicyModel
    from chord.evaluation.vllm_model import VllmPolicyModel


VERB = "chord generate"


@dataclass(frozen=True)
class Job:
    """Answers that are wanted: to which problems, under which seed, and the key of all that decides them."""

    benchmark: Benchmark
    file: Path
    problems: tuple[Problem, ...]
    seed: int
    answers: Path
    key: str


# Gives the content of a job's answers.jsonl, and what its manifest says of the chat template.
Answerer: TypeAlias = Callable[[Job], tuple[str, dict[str, Any]]]


def main() -> None:
    """Answer one benchmark; then those of its siblings that nobody has answered yet."""
    args = _arguments()
    project = project_of(args)
    root, study = args.root, project.study
    benchmark = read_benchmark(root, study, args.benchmark)
    threads, by = args.threads or study.execution.cpu_threads, study.execution.answers
    decided = of_answers(study, benchmark.name, benchmark.definition, args.seed)
    with Manifest.recording(
        args.manifest,
        decided,
        inputs={"model": args.model, "problems": args.problems},
        outputs={"answers": args.answers},
        seeds={"evaluate": args.seed},
        extra={"cpu_threads": threads},
    ) as recording:
        _check_model(args.model)
        alike = {"code": code_digest(VERB, decided.uses), "packages": key_packages(), "model": tree_hash(args.model)}
        job = _job(study, benchmark, args.problems, args.answers, args.seed, alike)
        recording.extra["key"] = job.key
        with ahead.claimed(args.answers, wait=True):
            made_by = ahead.take(args.answers, job.key)
            if made_by is not None:
                recording.extra |= made_by.pop("template")
                recording.extra["made_ahead_by"] = made_by
                return
            answer, ran_on = ANSWERERS[by](args.model, study, threads)
            text, template = answer(job)
            recording.extra |= ran_on | template
            write_atomically(args.answers, text)
    for name, problems, answers in args.ahead:
        try:
            sibling = _job(study, read_benchmark(root, study, name), problems, answers, args.seed, alike)
            with ahead.claimed(answers, wait=False) as mine:
                if mine and not ahead.is_done(answers, sibling.key):
                    text, template = answer(sibling)
                    ahead.leave(answers, sibling.key, text, VERB, ran_on | {"template": template})
        except UserError as error:
            print(f"{VERB}: {name} is left to its own job: {error}", file=sys.stderr)


ANSWERERS = PlugPoint[Callable[[Path, Study, int], tuple[Answerer, dict[str, Any]]]]("answers")


@ANSWERERS.entry("transformers")
def load_answerer(folder: Path, study: Study, threads: int) -> tuple[Answerer, dict[str, Any]]:
    """What answers a job, and what it runs on. Loads the model once."""
    keep_offline()
    import torch
    from safetensors import SafetensorError

    from chord.data.prompts import as_recorded, end_ids, prompt_ids
    from chord.evaluation.lm_eval_models import PolicyModel
    from chord.sampling.protocol import Sampled
    from chord.training.policy import DTYPES, configured_ends, load_policy, weights_dtype
    from chord.training.transformers_sampler import TransformersSampler

    execution = study.execution
    compute_dtype = DTYPES[execution.compute_dtype]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else deterministic kernels refuse to run on CUDA
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(execution.deterministic)
    try:
        model, tokenizer = load_policy(folder, weights_dtype(compute_dtype))
    except (OSError, ValueError, SafetensorError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{folder}: found a model that cannot be loaded ({found:.200}); make it again") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.nn.Module.to(model, device)
    ends, date = end_ids(tokenizer, configured_ends(model)), study.prompt_date
    sampler = TransformersSampler(model, ends, execution.sampler_rows, compute_dtype)

    def decode(sampled: Sampled) -> str:
        ids = sampled.ids[:-1] if sampled.finish == "stop" else sampled.ids
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    def encode(prompt: str) -> list[int]:
        return prompt_ids(tokenizer, prompt, date=date)

    def answer(job: Job) -> tuple[str, dict[str, Any]]:
        policy = PolicyModel(sampler, encode, decode, job.benchmark.name, job.seed)
        return sampled_answers(job, policy), as_recorded(tokenizer, ends, job.problems[0].prompt, date=date)

    return answer, {"device": device}


@ANSWERERS.entry("vllm")
def vllm_answerer(folder: Path, study: Study, threads: int) -> tuple[Answerer, dict[str, Any]]:
    """As `load_answerer`, through lm-eval's own model for vLLM. Raises UserError for what this vLLM cannot do."""
    keep_offline()
    import torch

    from chord.sampling import vllm_server as vllm
    from chord.sampling.protocol import Sampled

    execution, where = study.execution, f"config/studies/{study.name}.yaml: execution"
    vllm.check_options(execution.answers_options, f"{where}.answers_options", vllm.OURS_HERE)
    if execution.answers_batch_invariant:
        vllm.check_batch_invariance(f"{where}.answers_batch_invariant")
    vllm.prepare_process(execution.answers_batch_invariant, OMP_NUM_THREADS=str(threads))
    from transformers import AutoTokenizer

    from chord.data.prompts import as_recorded, end_ids, prompt_ids
    from chord.evaluation.vllm_model import VllmPolicyModel

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def decode(sampled: Sampled) -> str:
        ids = sampled.ids[:-1] if sampled.finish == "stop" else sampled.ids
        return str(tokenizer.decode(ids, skip_special_tokens=False))

    settings = vllm.engine_settings(execution.answers_options, execution.compute_dtype, execution.sampler_rows)
    ends, date = end_ids(tokenizer, vllm.configured_ends_in(folder)), study.prompt_date
    policy = VllmPolicyModel(folder, lambda text: prompt_ids(tokenizer, text, date=date), decode, ends, settings)

    def answer(job: Job) -> tuple[str, dict[str, Any]]:
        text = sampled_answers(job, policy.begin(job.benchmark.name, job.seed))
        return text, as_recorded(tokenizer, ends, job.problems[0].prompt, date=date)

    engine = {"name": "vllm", "version": vllm.vllm_version(), "dtype": policy.dtype, "settings": settings}
    engine["batch_invariant"] = execution.answers_batch_invariant
    return answer, {"device": "cuda" if torch.cuda.is_available() else "cpu", "engine": engine}


def sampled_answers(job: Job, policy: "PolicyModel | VllmPolicyModel") -> str:
    """The content of answers.jsonl: every answer of `policy`, sorted by problem and sample."""
    from chord.evaluation.lm_eval_models import UnfitPrompt

    began = time.monotonic()
    try:
        ask(policy, job.benchmark, job.problems)
    except UnfitPrompt as error:
        raise UserError(f"{job.file}: {error}; this model cannot answer this benchmark") from None
    print(f"{job.benchmark.name}: {len(policy.answers)} answers in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return write_lines(sorted(policy.answers, key=lambda answer: (answer.problem, answer.sample)))


def _check_model(folder: Path) -> None:
    """Raises UserError at once, and not after seconds of imports, for a folder that holds no model."""
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(folder.glob(needed)):
            raise UserError(f"{folder}: found no {needed}, expected the folder of a finished model; train it again")


def _job(study: Study, benchmark: Benchmark, file: Path, answers: Path, seed: int, alike: dict[str, Any]) -> Job:
    """The job, with its problems read and checked; `alike` is what it shares with the model's other benchmarks."""
    problems = read_problems(file)
    own = {
        "decided_by": of_answers(study, benchmark.name, benchmark.definition, seed).decided_by,
        "problems": file_sha256(file),
    }
    return Job(benchmark, file, tuple(problems), seed, answers, ahead.key_of(alike | own))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Sample a model's answers to a benchmark through lm-eval.")
    add_study(parser)
    parser.add_argument("--benchmark", required=True, help="name of the benchmark in the study")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--problems", type=Path, required=True, help="problems of the benchmark, JSON lines")
    parser.add_argument("--seed", action=Number, least=0, required=True, help="decides every draw")
    parser.add_argument("--threads", action=Number, help="of the processor (default: those of the study)")
    parser.add_argument("--answers", type=Path, required=True, help="JSON lines that are written")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the answers come from")
    shape = "NAME=PROBLEMS=ANSWERS"
    parser.add_argument(
        "--ahead", type=ahead.sibling(shape), action="append", default=[], metavar=shape, help="see above"
    )
    return parser.parse_args()
