"""Runs one training command again and again, each time in a forked child that may be killed.

    python -m tests.faults.incarnations PLAN.json

The plan: {"arguments": [...], "deaths": [["sampling", 1], ["after", 0.2], null, ...]}

Heavy modules are imported once, so a death costs a fraction of a second. Prints one JSON list: how each child ended.
A death is a place in the code and how often it is passed before SIGKILL, or "after" and seconds of life; a null leaves
the child alone.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

import chord.training.setup
import chord.training.train
from chord.provenance.digest import job_code
from chord.training import checkpoint, engine
from chord.training.checkpoint import Logs
from chord.training.setup import Training
from chord.training.transformers_sampler import TransformersSampler

PLACES = {
    "sampling": (TransformersSampler, "_decode"),
    "forward": (engine, "token_statistics"),
    "backward": (torch.Tensor, "backward"),
    "optimiser": (torch.optim.AdamW, "step"),
    "writing metrics": (Logs, "write"),
    "syncing metrics": (Logs, "sync"),
    "kept weights": (checkpoint, "keep_weights"),
    "writing a checkpoint": (checkpoint.safetensors.torch, "save_file"),
    "hashing a checkpoint": (checkpoint, "file_sha256"),
    "dropping old checkpoints": (checkpoint.shutil, "rmtree"),
    "outputs": (Training, "write_outputs"),
    "copying candidates": (chord.training.setup.shutil, "copyfile"),
    "dropping the state": (chord.training.train, "drop_state"),
}

job_code("chord train", {})  # all children keep what was parsed for it


def die_at(place: str, passes: int) -> None:
    """SIGKILLs this process when `place` has been passed `passes` times: half of the deaths before, half after it."""
    owner, name = PLACES[place]
    real = getattr(owner, name)
    left = [passes]

    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0 and passes % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **kwargs)
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, wrapped)


def incarnation(arguments: list[str], death: list | None) -> str:
    """One child from start to end: "killed", or its exit code."""
    child = os.fork()
    if child == 0:
        try:
            if death and death[0] == "after":
                threading.Timer(death[1], lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            elif death:
                die_at(*death)
            sys.argv = ["chord train", *arguments]
            code = chord.training.train.main()
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:  # noqa: BLE001 # a child must never run on into the parent's loop
            print(f"incarnation: {error!r}", file=sys.stderr, flush=True)
            code = 99
        os._exit(int(code or 0))
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else str(os.WEXITSTATUS(status))


def main() -> None:
    """One child for each death of the plan, in order."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([incarnation(plan["arguments"], death) for death in plan["deaths"]]))


if __name__ == "__main__":
    main()
