"""Files of the shape of OpenR1-Math-220k and of the benchmarks, all made up: problems by rule, answers that are right.

Nothing here is copied from any dataset. A study that is math.yaml in small reads them, and a model that knows nothing.
"""

import io
import json
import random
import re
import string
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from chord.config.project import load
from tests.hub_server import Files, Hub
from tests.projects import ROOT, study_file

THINGS = ("apples", "boxes", "coins", "books", "lamps", "seeds", "stones", "cups", "keys", "shells")
TEXTS, FLAGS = pa.list_(pa.string()), pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("problem", "solution", "answer", "problem_type", "question_type", "source", "uuid")
    ]
    + [("is_reasoning_complete", FLAGS), ("generations", TEXTS), ("correctness_math_verify", FLAGS)]
    + [("correctness_llama", FLAGS), ("finish_reasons", TEXTS), ("correctness_count", pa.int64())]
    + [("messages", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())])))]
)


def trace(steps: str, answer: object) -> str:
    """An expert's answer in the form that the real ones have."""
    return f"<think>\n{steps}\n</think>\n\nSo the answer is \\boxed{{{answer}}}."


def row(problem: str, answer: str, traces: Sequence[tuple[str, bool]], number: int = 0, **more: Any) -> dict[str, Any]:
    """A row with all columns; `traces` are texts, each with whether it was found right."""
    flags = [right for _, right in traces]
    made = dict.fromkeys(SCHEMA.names) | {
        "problem": problem,
        "answer": answer,
        "solution": f"It is {answer}.",
    }
    made |= {"problem_type": "Algebra", "question_type": "math-word-problem", "source": "made up"}
    made |= {"uuid": f"made-up-{number:06d}", "generations": [text for text, _ in traces]}
    made |= {"correctness_math_verify": flags, "correctness_count": sum(flags)}
    made |= {"is_reasoning_complete": [True] * len(flags), "finish_reasons": ["stop"] * len(flags)}
    return made | {"messages": [{"role": "user", "content": problem}]} | more


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """So many different problems with right answers: of ten, one has a fraction for its answer, one is in Chinese,

    one has one right trace, one has a wrong one beside two right ones; the others have two right ones.
    """
    numbers = random.Random(seed)
    for number in range(count):
        first, second = number + 11, numbers.randrange(2, 90)
        one, other = numbers.sample(THINGS, 2)
        problem = f"Mira packs {second} {one} with each of her {first} {other}. How many {one} has she packed by then?"
        answer: object = first * second
        steps = f"{first} times {second} is {first * second}."
        if number % 10 == 3:
            problem, answer = f"What part of {first * 7} {one} are {second} {one}?", Fraction(second, first * 7)
            steps = f"{second} of {first * 7} is {answer}."
        if number % 10 == 5:
            problem = f"每盒有{second}个，一共{first}盒，总数是多少？"
        right, wrong = (trace(steps, answer), True), (trace(steps, "0.5"), False)
        traces = [right, (trace(f"Check: {steps}", answer), True)]
        traces = [wrong, right] if number % 10 == 7 else [wrong, *traces] if number % 10 == 8 else traces
        yield row(problem, str(answer), traces, number)


def parquet(made: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> bytes:
    """The rows as a Parquet file with small row groups."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(made), schema=schema), buffer, row_group_size=64)
    return buffer.getvalue()


def asked(count: int, kind: str) -> list[dict[str, Any]]:
    """Problems of a benchmark, with words of their own."""
    numbers = [(place + 3, place * 2 + 5) for place in range(count)]
    return [
        {
            "problem": f"In the {kind} round a snail climbs {a} rungs a day for {b} days; how high is it?",
            "answer": str(a * b),
        }
        for a, b in numbers
    ]


def choices(count: int) -> list[dict[str, Any]]:
    """Questions with options; the answer is the place of the right one, counted from 0."""
    return [
        {
            "question": f"Which of these is the sum of {place} and {place + 1}, as a heron would tell it?",
            "options": [str(2 * place + 1 + shift) for shift in range(-(place % 3), 3)],
            "answer_index": place % 3,
            "category": ("law", "physics")[place % 2],
        }
        for place in range(count)
    ]


def model_files(context: int = 1024, seed: int = 1) -> Files:
    """A random Llama of some thousand weights that reads and writes single characters."""
    from chord.training.policy import blank_model, character_tokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = character_tokenizer(string.printable)
    model = blank_model(sizes | {"num_key_value_heads": 2, "max_position_embeddings": context}, tokenizer, seed)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def publish(hub: Hub, count: int = 300) -> dict[str, str]:
    """The model and all datasets of the study, made up; the commit of each."""
    openr1 = list(rows(count))
    overlapping = asked(1, "AMC")[0]["problem"]
    openr1.append(row(f"Again: {overlapping}", "15", [(trace("3 times 5.", 15), True)] * 2, count))
    half = len(openr1) // 2
    texts, numbers = (pa.schema([("problem", pa.string()), ("answer", kind)]) for kind in (pa.string(), pa.float64()))
    options = [("question", pa.string()), ("options", TEXTS), ("answer_index", pa.int64()), ("category", pa.string())]
    amc = [one | {"answer": float(one["answer"])} for one in asked(4, "AMC")]
    lines = {kind: "".join(json.dumps(one) + "\n" for one in asked(4, kind)).encode() for kind in ("AIME25", "MATH")}
    one_shard = "data/{}-00000-of-00001.parquet"
    repositories: dict[str, Files] = {
        "models/made-up/model": model_files() | {"run.py": b"raise SystemExit"},
        "models/made-up/weak": model_files(seed=2),
        "models/made-up/untuned": model_files(seed=3),
        "datasets/made-up/openr1": {
            "data/train-00000-of-00002.parquet": parquet(openr1[:half]),
            "data/train-00001-of-00002.parquet": parquet(openr1[half:]),
        },
        "datasets/made-up/aime24": {one_shard.format("train"): parquet(asked(4, "AIME24"), texts)},
        "datasets/made-up/aime25": {"test.jsonl": lines["AIME25"]},
        "datasets/made-up/amc": {one_shard.format("train"): parquet(amc, numbers)},
        "datasets/made-up/math-500": {"test.jsonl": lines["MATH"]},
        "datasets/made-up/mmlu-pro": {one_shard.format("test"): parquet(choices(4), pa.schema(options))},
    }
    return {name.rpartition("/")[2]: hub.push(name, files) for name, files in repositories.items()}


def write_study(root: Path) -> Path:
    """The project's config with study math in small, on made-up repositories."""
    study = load(ROOT, "math").study
    changes: dict[str, Any] = {"model__name": "made-up/model", "model__revision": "main"}
    for name in study.other_models:
        changes |= {f"other_models__{name}__model__name": f"made-up/{name}"}
        changes |= {f"other_models__{name}__model__revision": "main"}
    for name in study.datasets:
        changes |= {f"datasets__{name}__repository": f"made-up/{name}", f"datasets__{name}__revision": "main"}
    changes |= {"data__train__size": 40, "data__validation__size": 4, "data__expert__size": 20}
    changes |= {f"benchmarks__{name}__problems__size": 4 for name in study.benchmarks}
    changes |= {"rollouts__prompts_per_step": 2, "rollouts__per_prompt": 2, "rollouts__max_response_tokens": 192}
    changes |= {"rollouts__max_prompt_tokens": 512, "validation__every_steps": 2, "validation__problems": 2}
    changes |= {"expert_rows_per_step": 2, "seeds": [1], "other_experts__large__problems": 50}
    changes |= {"budget__rl_steps": 2, "budget__mu_decay_steps": 2}
    changes |= {"budget__tune_both_warmup_steps": 0, "budget__sasr_warmup_steps": 1}
    whole = yaml.safe_load((ROOT / "config/studies/math.yaml").read_text(encoding="utf-8"))["execution"]
    on_cpus = {name: value for name, value in whole.items() if name not in ("sampler", "vllm", "zero")}
    changes["execution"] = on_cpus | {"compute_dtype": "float32", "cpu_threads": 1, "sampler_rows": 64}
    file = study_file(root, "math", **changes)
    for name in study.benchmarks:
        task = root / f"config/benchmarks/{name}.yaml"
        short = re.sub(r"max_gen_toks: \d+", "max_gen_toks: 24", task.read_text(encoding="utf-8"))
        task.write_text(re.sub(r"(repeats: |k: |@)(32|8)\b", r"\g<1>2", short), encoding="utf-8")
    return file
