"""The engine options of the vLLM that is installed: which there are, and a refusal of those that it lacks.

They are the fields of its EngineArgs, read from the source without importing it, so that a mistake is told at once.
"""

import ast
import difflib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from chord.provenance.files import UserError

Option: TypeAlias = "str | int | float | bool | list[str] | dict[str, Option]"
# What this project says itself, by other keys; pickled weights and code that comes with a model are never loaded.
OURS = {
    "model": "the model's own key",
    "revision": "the model's own key",
    "served_model_name": "nothing: it is chosen here",
    "tensor_parallel_size": "the key `tensor_parallel`",
    "data_parallel_size": "the key `replicas`",
    "load_format": "nothing: only safetensors are loaded",
    "trust_remote_code": "nothing: no code that comes with a model is run",
    "hf_token": "the environment variable HF_TOKEN",
}

# vLLM 0.32 draws a token also for the first part of a prompt that was divided between passes, and then takes the draw
# back: on GPUs alone, so that on a CPU a request with a seed of its own would end the engine (its gpu_model_runner.py).
ON_A_CPU: dict[str, Option] = {"enable_chunked_prefill": False}


def vllm_version() -> str:
    """The version of the vLLM that is installed. Raises UserError if there is none."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("found no package vllm, expected one; install it as envs/README.md or README.md says") from None


@cache
def engine_options() -> frozenset[str]:
    """The names of all engine options of the installed vLLM. Raises UserError if there is none."""
    found = find_spec("vllm")
    if found is None or found.origin is None:
        raise UserError("found no package vllm, expected one to serve or sample with; install it, or choose without it")
    source = Path(found.origin).parent / "engine" / "arg_utils.py"
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    names = {
        item.target.id
        for part in tree.body
        if isinstance(part, ast.ClassDef) and part.name in ("EngineArgs", "AsyncEngineArgs")
        for item in part.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    if "model" not in names:
        raise UserError(f"{source}: found no fields of EngineArgs, expected vLLM as of 0.32; install that")
    return frozenset(names)


def check_options(options: Mapping[str, Option], where: str, ours: Mapping[str, str] = OURS) -> None:
    """Raises UserError, with `where` in front, for an option that this vLLM lacks or that is not the caller's."""
    known = engine_options()
    for name in options:
        if name in ours:
            raise UserError(f"{where}.{name}: found an option that is set elsewhere, expected {ours[name]}")
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known - ours.keys(), n=1)
            hint = f" (nearest: `{near[0]}`)" if near else ""
            raise UserError(
                f"{where}.{name}: found an option that vLLM {vllm_version()} lacks, expected a field of its"
                f" EngineArgs{hint}"
            )


def as_arguments(options: Mapping[str, Option]) -> list[str]:
    """The options as `vllm serve` takes them on its command line."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        else:
            arguments.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def configured_ends_in(folder: Path) -> int | list[int] | None:
    """The tokens that end a response by the generation settings of the model in a folder; there may be others.

    A model without such a file has the settings in its config.json, as transformers takes them.
    """
    files = (folder / "generation_config.json", folder / "config.json")
    said = next((json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()), {})
    return said.get("eos_token_id")
