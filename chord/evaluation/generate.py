"""A model and a benchmark -> sampled answers, through lm-eval. Nothing is graded here.

chord generate --study NAME --benchmark NAME --model DIR --problems FILE --seed N --answers OUT
    --manifest OUT [--ahead NAME=PROBLEMS=ANSWERS ...]

`--ahead` names other benchmarks of the same model, whose answers are sampled by this process too (see
chord.evaluation.ahead). A job whose answers lie ready ends before anything heavy is imported.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from chord.config.project import project_of
from chord.config.study import Study
from chord.data.prompts import end_ids, load_tokenizer
from chord.errors import UserError
from chord.evaluation import ahead
from chord.evaluation.ahead import Result, Wanted
from chord.evaluation.benchmarks import Benchmark, ask, keep_offline, read_benchmark, read_problems
from chord.provenance.cli import Number
from chord.provenance.digest import code_digest
from chord.provenance.environment import key_packages
from chord.provenance.files import file_sha256, tree_hash
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.records import PromptError, write_lines
from chord.steps import of_answers

if TYPE_CHECKING:
    from chord.evaluation.lm_eval_models import PolicyModel
    from chord.evaluation.vllm_model import VllmPolicyModel

    Policy: TypeAlias = PolicyModel | VllmPolicyModel

VERB = "chord generate"


def main() -> None:
    """Answer one benchmark; then those of its siblings that nobody has answered yet."""
    args = _arguments()
    study, seed = project_of(args).study, args.seed
    threads = args.threads or study.execution.cpu_threads
    own = read_benchmark(args.root, study, args.benchmark)
    decided = of_answers(study, own.name, own.definition, seed)
    with Manifest.recording(
        args.manifest,
        decided,
        inputs={"model": args.model, "problems": args.problems},
        outputs={"answers": args.answers},
        seeds={"evaluate": seed},
        extra={"cpu_threads": threads},
    ) as recording:
        _check_model(args.model)
        alike = {"code": code_digest(VERB, decided.uses), "packages": key_packages(), "model": tree_hash(args.model)}

        @cache
        def loaded() -> "tuple[Policy, dict[str, Any]]":
            keep_offline()
            return ANSWERERS[study.execution.answers](args.model, study, threads)

        def wanted(benchmark: Benchmark, file: Path, answers: Path) -> Wanted:
            problems = read_problems(file)
            decided_by = of_answers(study, benchmark.name, benchmark.definition, seed).decided_by
            key = ahead.key_of(alike | {"decided_by": decided_by, "problems": file_sha256(file)})

            def make() -> Result:
                policy, ran_on = loaded()
                began = time.monotonic()
                policy.begin(benchmark.name, seed)
                try:
                    ask(policy, benchmark, problems)
                except PromptError as error:
                    raise UserError(f"{file}: {error}; this model cannot answer this benchmark") from None
                took = f"{time.monotonic() - began:.1f} s"
                print(f"{benchmark.name}: {len(policy.answers)} answers in {took}", file=sys.stderr)
                lines = write_lines(sorted(policy.answers, key=lambda answer: (answer.problem, answer.sample)))
                return Result(lines, policy.texts.recorded(problems[0].prompt), ran_on)

            return Wanted(answers, key, make)

        def sibling(name: str, file: Path, answers: Path) -> Wanted:
            return wanted(read_benchmark(args.root, study, name), file, answers)

        if not ahead.make_own(wanted(own, args.problems, args.answers), recording):
            return
    ahead.make_others(VERB, args.ahead, sibling)


ANSWERERS = PlugPoint[Callable[[Path, Study, int], "tuple[Policy, dict[str, Any]]"]]("answers")


@ANSWERERS.entry("transformers")
def load_policy_model(folder: Path, study: Study, threads: int) -> "tuple[Policy, dict[str, Any]]":
    """What answers benchmarks with the model in the folder, and what it runs on."""
    import torch
    from safetensors import SafetensorError

    from chord.evaluation.lm_eval_models import PolicyModel, Texts
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
    texts = Texts(tokenizer, end_ids(tokenizer, configured_ends(model)), study.prompt_date)
    sampler = TransformersSampler(model, texts.ends, execution.sampler_rows, compute_dtype)
    return PolicyModel(sampler, texts), {"device": device}


@ANSWERERS.entry("vllm")
def load_vllm_model(folder: Path, study: Study, threads: int) -> "tuple[Policy, dict[str, Any]]":
    """The same through lm-eval's own model for vLLM. Raises UserError for what this vLLM cannot do."""
    import torch

    from chord.sampling import vllm_server as vllm

    execution, where = study.execution, f"config/studies/{study.name}.yaml: execution"
    vllm.check_options(execution.answers_options, f"{where}.answers_options", vllm.OURS_HERE)
    if execution.answers_batch_invariant:
        vllm.check_batch_invariance(f"{where}.answers_batch_invariant")
    vllm.prepare_process(execution.answers_batch_invariant, OMP_NUM_THREADS=str(threads))
    from chord.evaluation.lm_eval_models import Texts
    from chord.evaluation.vllm_model import VllmPolicyModel

    tokenizer = load_tokenizer(folder)
    settings = vllm.engine_settings(execution.answers_options, execution.compute_dtype, execution.sampler_rows)
    texts = Texts(tokenizer, end_ids(tokenizer, vllm.configured_ends_in(folder)), study.prompt_date)
    policy = VllmPolicyModel(folder, texts, settings)
    engine: dict[str, Any] = {"name": "vllm", "version": vllm.vllm_version(), "dtype": policy.dtype}
    engine |= {"settings": settings, "batch_invariant": execution.answers_batch_invariant}
    return policy, {"device": "cuda" if torch.cuda.is_available() else "cpu", "engine": engine}


def _check_model(folder: Path) -> None:
    """Raises UserError at once, and not after seconds of imports, for a folder that holds no model."""
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(folder.glob(needed)):
            raise UserError(f"{folder}: found no {needed}, expected the folder of a finished model; train it again")


def _arguments() -> argparse.Namespace:
    about = "Sample a model's answers to a benchmark through lm-eval."
    parser = ahead.parser_of(VERB, about, "NAME=PROBLEMS=ANSWERS")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--seed", action=Number, least=0, required=True, help="decides every draw")
    parser.add_argument("--threads", action=Number, help="of the processor (default: those of the study)")
    parser.add_argument("--answers", type=Path, required=True, help="JSON lines that are written")
    return parser.parse_args()
