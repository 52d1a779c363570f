"""Training with rollouts from vLLM: it repeats bit for bit, goes on after a kill, and never uses a stale sampler.

One process imports vLLM and forks for each run, since the import takes longer than a run. The model is blank and has
heads of size 32, the smallest that vLLM's attention on a CPU knows.
"""

import json
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.faults.small_run import command, result, small_run
from tests.projects import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes on a busy machine, most of it imports of vLLM
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "max_position_embeddings": 64}
POLICY_LOSS = {"clip_low": 0.2, "clip_high": 0.2, "advantage_epsilon": 1e-6, "importance_cap": 2.0}
PAST = 5  # steps, after which something happens to a run
RUNS = """
import json, os, signal, sys
import chord.training.train
from chord.sampling.vllm_sampler import PolicyWeights, as_guest
from chord.sampling.vllm_server import GUEST
from tests.faults import forked_ranks

os.environ.update(GUEST)
with as_guest(eager=True):  # all that an engine loads, most of it when it is first asked for
    from vllm import LLM
    import vllm.model_executor.models.llama, vllm.v1.executor.uniproc_executor, vllm.v1.worker.cpu_worker

take = PolicyWeights.take_policy

def interfered(kind, past):
    def replaced(self, version, weights=None, folder=None):
        if kind == "kill" and version > past:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "lose" and version > past:  # the hand-over says that all is well, and nothing arrives
            self.policy_version = version
            return
        take(self, version, weights, folder)
    return replaced

ends = []
for arguments, kind, past, log in json.load(open(sys.argv[1])):
    child = os.fork()
    if child == 0:
        code = 99
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            PolicyWeights.take_policy = interfered(kind, past)
            sys.argv = ["chord train", *arguments]
            ranks = kind == "ranks"
            if ranks:
                sys.argv = ["forked_ranks", "chord", "train", *arguments]
            code = (forked_ranks if ranks else chord.training.train).main() or 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(code)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


def vllm_run(folder: Path, steps: int = 8, **settings: object) -> Path:
    """A run of `small_run` that samples with vLLM, under a cap of the importance correction."""
    values = {"model.architecture": SIZES, "recipe.steps": steps, "recipe.learning_rate": 1e-2}
    values |= {"validation.every_steps": 6, "policy_loss": POLICY_LOSS}
    vllm = {"execution.sampler": "vllm", "execution.vllm": {"cache_gb": 0.05} | settings}
    return small_run(folder, **values, **vllm)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[int], str]]:
    """Runs by what happened to them: the folder of outputs, exit codes of each start, what the first one said."""
    pytest.importorskip("vllm", reason="no vLLM is installed")
    folder = tmp_path_factory.mktemp("runs")
    vllm_run(folder)
    vllm_run(folder / "short", steps=2)
    starts = [
        (kind, turn) for kind, turns in {"": 1, "kill": 2, "lose": 2, "ranks": 1}.items() for turn in range(turns)
    ]
    jobs = []
    for kind, turn in starts:
        arguments = command(folder / "short" if kind == "ranks" else folder, folder / f"out-{kind}")
        jobs.append((arguments, "" if turn else kind, PAST, str(folder / f"{kind}-{turn}.log")))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = warm.run([sys.executable, "-c", RUNS, str(folder / "jobs.json")], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    codes: dict[str, list[int]] = {}
    for (kind, _), code in zip(starts, json.loads(done.stdout.splitlines()[-1]), strict=True):
        codes.setdefault(kind, []).append(code)
    return {kind: (folder / f"out-{kind}", codes[kind], (folder / f"{kind}-0.log").read_text()) for kind in codes}


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_vllm_rollouts_learns_and_each_hand_over_is_proved(runs) -> None:
    out, codes, said = runs[""]
    assert codes == [0], said[-3000:]
    steps = metrics(out)[1:]
    assert [step["sampler"]["version"] for step in steps] == list(range(1, 9))
    assert len({step["sampler"]["weights"] for step in steps}) == 8  # every step has other weights
    assert all(0 < step["logp_mismatch"] < 1e-5 for step in steps)  # float32 on both sides, other kernels
    assert all(step["rollout_tokens"] > 0 and step["grad_norm"] > 0 for step in steps)
    assert "Traceback" not in said


def test_a_killed_run_goes_on_to_the_same_bytes(runs) -> None:
    """So it also repeats: of the steps after the checkpoint each is made twice, by processes of their own."""
    out, codes, _ = runs["kill"]
    assert codes == [-9, 0]
    assert result(out) == result(runs[""][0])


def test_weights_that_do_not_arrive_stop_the_run_and_are_not_lost(runs) -> None:
    """The step that learned from good rollouts is kept: started again, the run ends with the very same bytes."""
    out, codes, said = runs["lose"]
    assert codes == [4, 0]
    assert f"step {PAST + 1}: the sampler of rank 0 holds version {PAST + 1} of the weights and 21 of 21" in said
    assert "the learner's weights are saved" in said and "Traceback" not in said
    assert result(out) == result(runs[""][0])


def test_ranks_have_an_engine_each_and_learn_what_one_process_learns(runs) -> None:
    """Under torchrun's own agent; see `tests.faults.forked_ranks`."""
    out, codes, said = runs["ranks"]
    assert codes == [0], said[-3000:]
    assert "Traceback" not in said
    alike(metrics(out), metrics(runs[""][0]))


def test_a_server_is_handed_the_weights_too_and_no_process_is_left(runs, tmp_path: Path) -> None:
    """Its first steps are those of the engine in the process, but for the order of sums in batches of another size."""
    arguments = command(vllm_run(tmp_path, steps=2, placement="server"), tmp_path / "out")
    done = warm.run([sys.executable, "-m", "chord", "train", *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    alike(metrics(tmp_path / "out"), metrics(runs[""][0]))
    assert not (tmp_path / "out" / "state" / "sampler").exists()
    here = str(tmp_path).encode()
    assert [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if here in read(entry)] == []


def alike(found: list[dict], wanted: list[dict]) -> None:
    """Two steps of the same rollouts, or of all but one, of engines that batch otherwise: see `all_but_one_at_most`.

    What the learner says of the expert's tokens needs no draw in step 1, and the update of 16 rollouts in step 2.
    """
    for one, other, apart in zip(found[1:], wanted[1:], (1e-6, 1e-2), strict=False):
        moved = [abs(one["outcomes"][name] - other["outcomes"][name]) for name in other["outcomes"]]
        assert sum(moved) <= 2, (one["outcomes"], other["outcomes"])
        assert one["expert_logp"] == pytest.approx(other["expert_logp"], rel=apart)
        assert one["sampler"]["version"] == one["step"] and one["logp_mismatch"] < 1e-5


def read(entry: Path) -> bytes:
    try:
        return entry.read_bytes()
    except OSError:  # it ended meanwhile
        return b""
