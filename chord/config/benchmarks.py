"""A file of config/benchmarks: an lm-eval task of which every key is checked. Knows lm-eval by name only.

What lm-eval would take and this project could not is refused too: problems, prompts and graders are those of the study.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from chord.config.reading import FUNCTION, FunctionName, read_yaml, validated
from chord.errors import ConfigError, expected
from chord.settings import Frozen, Raw, Temperature, Text, Tokens, default

PACKAGE = Path(__file__).resolve().parents[1]
NAMED = re.compile(rf"{FUNCTION} {PACKAGE.name}((?:\.[A-Za-z_]\w*)+)\.([A-Za-z_]\w*)", re.ASCII)
KNOWN = Path(__file__).with_name("known.json")


@cache
def known(what: str) -> Any:
    """`lm_eval`: keys of a task. `generators`: by name, their `settings` (kind, default, least) and `facts`.

    `words`: how many words spell_backward has, by length. `bfcl`: items by category. `vllm`: its `version`
    and the `options` of its engine.
    """
    return json.loads(KNOWN.read_text(encoding="utf-8"))[what]


@cache
def _functions_of(module: str) -> Mapping[str, ast.FunctionDef] | None:
    """The functions at the top of a module, `.tasks.stored`, read from its source; None if there is no such module."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    source = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if source is None:
        return None
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    return {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}


def _unfit(arguments: int, returns: str, text: str) -> Iterator[str]:
    """Why the text does not name a function of this package with so many arguments and this return type."""
    match = NAMED.fullmatch(text)
    if not match:
        yield f"found '{text}', expected `{FUNCTION} {PACKAGE.name}.MODULE.NAME`, a function of this project"
        return
    module, name = f"{PACKAGE.name}{match[1]}", match[2]
    functions = _functions_of(match[1])
    if functions is None:
        yield f"found no module {module}, expected one of this project"
    elif name not in functions:
        yield f"found no function '{name}' in {module}, {expected(name, functions)}"
    else:
        given, annotation = functions[name].args, functions[name].returns
        most = len(given.posonlyargs) + len(given.args)
        is_enough = most - len(given.defaults) <= arguments and None not in given.kw_defaults
        if not is_enough or (arguments > most and not given.vararg):
            yield f"found {name}({ast.unparse(given)}), expected a function that lm-eval can give {arguments} arguments"
        returned = ast.unparse(annotation).strip("'\"") if annotation else "nothing"
        if returned.partition("[")[0].rpartition(".")[2] != returns:
            yield f"found a function annotated to return {returned}, expected one that returns a {returns}"


class Generation(Frozen):
    """How an answer is sampled: all that the samplers of this project know."""

    do_sample: Literal[True] = Field(description="must be true: answers are sampled")
    temperature: Temperature = Field(description="of sampling (the paper: 1.0)")
    until: tuple[str, ...] = Field(max_length=0, description="must be empty: the model itself ends an answer")
    max_gen_toks: Tokens = Field(description="then an answer is cut off and counts as `too_long`")


class Metric(Frozen):
    """`avg@k`: mean share of right samples. `pass@k`: share of problems with a right one. `outcomes`: counts."""

    metric: Text = Field(description="`avg@k`, `pass@k` and `outcomes`")
    aggregation: Text = Field(description="`mean`; of `outcomes` a `!function` of this project")
    higher_is_better: bool = Field(description="for lm-eval's own table")

    def _wrong(self) -> Iterator[str]:
        if self.metric == "outcomes":
            yield from _unfit(1, "dict", self.aggregation)
        elif self.aggregation != "mean":
            want = f"{expected(self.aggregation, ['mean'])}: chord score checks it against its own mean over problems"
            yield f"found aggregation '{self.aggregation}' of {self.metric}, {want}"


class FewShot(Frozen):
    """Examples before the problem: none."""

    samples: tuple[str, ...] = Field(max_length=0, description="must be empty")


class Metadata(Frozen):
    """Keys beside `version` are for readers."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    version: int | str = Field(description="part of every score; another makes old ones incomparable")


class BenchmarkTask(Frozen):
    """An lm-eval task. Those keys that are not needed change nothing here, but how lm-eval names the task."""

    task: Text = Field(description="the name of the file")
    dataset_path: Literal["text"] = Field(description="`text`, as problems are given line by line")
    process_docs: str = Field(description="`!function` that reads problems line by line, as text")
    test_split: Literal["test"] = Field(description="where lm-eval finds the problems")
    doc_to_text: Literal["prompt"] = Field(description="what is asked: the study's prompt")
    doc_to_target: Literal["answer"] = Field(description="what is right: the study's answer")
    num_fewshot: Literal[0] = Field(description="0: the prompt has no examples")
    fewshot_config: FewShot = Field(description="none")
    output_type: Literal["generate_until"] = Field(description="the model writes an answer")
    repeats: int = Field(ge=1, le=10000, description="k of avg@k: samples for each problem")
    generation_kwargs: Generation = Field(description="how an answer is sampled")
    filter_list: list[dict[str, str | list[dict[str, str | int]]]] = Field(description="of the first k")
    process_results: str = Field(description="`!function`: the study's grader")
    metric_list: tuple[Metric, ...] = Field(description="what is formed of all problems")
    metadata: Metadata = Field(description="of the task")
    task_alias: Text | None = default(None, "another name of the task in lm-eval's own table")
    tag: Text | tuple[Text, ...] | None = default(None, "lm-eval's names for groups of tasks")
    target_delimiter: str = default(" ", "lm-eval's; changes nothing here")
    fewshot_delimiter: str = default("\n\n", "lm-eval's; changes nothing here")
    should_decontaminate: Literal[False] = default(False, "must be false")

    def _wrong(self) -> Iterator[str]:
        yield from (f"process_docs: {line}" for line in _unfit(1, "Dataset", self.process_docs))
        yield from (f"process_results: {line}" for line in _unfit(2, "dict", self.process_results))
        k = self.repeats  # samples that are asked for, that the filter keeps, that metrics are named by
        wanted, metrics = [f"avg@{k}", "outcomes", f"pass@{k}"], sorted(one.metric for one in self.metric_list)
        if metrics != wanted:
            yield f"metric_list has {metrics}, expected {wanted}, as repeats is {k}"
        if self.filter_list != [{"name": "samples", "filter": [{"function": "take_first_k", "k": k}]}]:
            want = f"expected one filter called `samples`, take_first_k with k = {k}, as repeats is {k}"
            yield f"found another filter_list, {want}"


def read_task(path: Path, shown: str) -> tuple[dict[str, Raw], BenchmarkTask]:
    """All that the file says, and the same checked. Raises ConfigError, which calls the file `shown`."""
    raw = read_yaml(path, shown, functions=True)
    has = ", ".join(BenchmarkTask.model_fields)
    unwanted = [
        f"{shown}: found `{key}`, which lm-eval knows and a benchmark here may not have, expected a whole task in this"
        f" one file, of {has}; prompts are the study's"
        for key in raw
        if key in ("include", *known("lm_eval")) and key not in BenchmarkTask.model_fields
    ]
    if unwanted:
        raise ConfigError("\n".join(unwanted))
    task = validated(TypeAdapter(BenchmarkTask), _tagged(raw), shown)
    if task.task != path.stem:
        raise ConfigError(f"{shown}: task is '{task.task}', expected '{path.stem}', the name of the file")
    return raw, task


def _tagged(raw: Raw) -> Raw:
    """The same with the tag before the name of every function, so that plain text is none."""
    if isinstance(raw, dict):
        return {key: _tagged(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_tagged(value) for value in raw]
    return f"{FUNCTION} {raw}" if isinstance(raw, FunctionName) else raw
