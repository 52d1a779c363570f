"""The benchmarks of speed run, compare like with like, and say where their figures were made."""

import re
from importlib.util import find_spec

import pytest
import torch

from benchmarks import common, learner, samplers

SMALL = ["--model", "tiny", "--longest", "8", "--rounds", "2"]
BATCH = [*SMALL, "--rollouts", "6", "--experts", "3"]
VARIANTS = {
    "bare": ["bare", "ours"],
    "packing": ["padded", "packed"],
    "recompute": ["kept", "computed again"],
    "deterministic": ["fastest", "deterministic"],
}


def table(said: str) -> dict[str, list[str]]:
    """The printed table: the cells of each variant."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows[1:]}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("what", VARIANTS)
def test_each_comparison_of_steps_prints_speeds_and_ratios_to_its_first_variant(what: str, capsys) -> None:
    learner.main([what, *BATCH])
    said = capsys.readouterr().out
    assert re.match(rf"{what}: tiny, float32, 6 rollouts and 3 expert traces, \d+ tokens, 2 rounds; at \S+,", said)
    assert f"torch {torch.__version__}" in said
    rows = table(said)
    assert list(rows) == VARIANTS[what]
    assert rows[VARIANTS[what][0]][1] == "1.00"
    assert all(int(cells[0].replace(",", "")) > 0 and float(cells[1]) > 0 for cells in rows.values())


@pytest.mark.parametrize(
    "names",
    [
        ("bare", "generate", "ours"),
        pytest.param(
            ("bare", "generate", "ours", "vllm"),
            marks=[pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM is installed")],
        ),
    ],
)
def test_samplers_are_compared_on_the_same_requests(names: tuple[str, ...], capsys) -> None:
    samplers.main([*SMALL, "--prompts", "2", "--per-prompt", "3", "--samplers", *names])
    said = capsys.readouterr().out
    assert "samplers: tiny, float32, 2 prompts, 3 responses each of up to 8 tokens, 2 rounds; at " in said
    rows = table(said)
    assert tuple(rows) == names and all(float(cells[1]) > 0 for cells in rows.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_speed_is_told_of_a_padded_step_that_gives_another_gradient(dtype: str, monkeypatch) -> None:
    """Both share the batch and the weights; with another mu the padded one learns something else."""
    learner.main(["packing", *BATCH, "--dtype", dtype])
    packed, other = learner.packed_step, learner.MU + 0.4

    def of_another_mu(*asked):
        step = packed(*asked)

        def run() -> int:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(learner, "MU", other)
                return step()

        return run

    monkeypatch.setattr(learner, "packed_step", of_another_mu)
    with pytest.raises(ValueError, match="no comparison"):
        learner.main(["packing", *BATCH, "--dtype", dtype])


def test_generated_tokens_are_counted_up_to_the_end_token(monkeypatch) -> None:
    """Rows "a end pad pad", "a a a a": two tokens and four."""
    model = common.model_of("tiny", torch.device("cpu"))
    (end,) = samplers.ends_of(model)
    asked = samplers.requests(model, 2, 1)

    def generate(ids, **_):
        return torch.cat([ids, torch.tensor([[7, end, end, end], [7, 7, 7, 7]])], dim=1)

    monkeypatch.setattr(type(model), "generate", lambda _self, ids, **told: generate(ids, **told))
    run = samplers.of_generate(model, asked, samplers.arguments([*SMALL]))
    assert run() == 6


def test_the_memory_of_a_variant_is_what_it_held_above_what_was_there() -> None:
    held = torch.ones(30 * 2**20 // 4)

    def work() -> int:
        return int((torch.ones(100 * 2**20 // 4) * 1).sum() > 0) + int(held[0])  # two tensors of 100 MB at a time

    (measured,) = common.alternate({"sums": work}, 1, torch.device("cpu"))
    assert 190 < measured.peak_mb < 260
