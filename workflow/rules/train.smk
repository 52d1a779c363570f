# Models. One trainer for every arm: what an arm is stands in its run.json, which anyone can run without Snakemake.


rule describe_base:
    output:
        run="results/{study}/models/base/run.json",
    log:
        "results/{study}/models/base/describe.log",
    priority: 100
    localrule: True
    conda:
        "../../envs/data.yaml"
    params:
        run=run_of_base,
    shell:
        "printf '%s\\n' {params.run:q} > {output.run} 2> {log}"


rule train_base:
    input:
        run="results/{study}/models/base/run.json",
        traces="results/{study}/data/traces/base.jsonl",
        validation="results/{study}/data/problems/validation.jsonl",
    output:
        model=directory("results/{study}/models/base/model"),
        metrics="results/{study}/models/base/metrics.jsonl",
        timing="results/{study}/models/base/timing.jsonl",
        manifest="results/{study}/models/base/train.manifest.json",
    log:
        "results/{study}/models/base/train.log",
    benchmark:
        "results/{study}/models/base/train.benchmark.tsv"
    priority: 100
    conda:
        "../../envs/train.yaml"
    threads: project.study.execution.cpu_threads
    params:
        code=code_digest("chord.train"),
        reads=as_flags,
    message:
        "Training the base model of study {wildcards.study} from random weights"
    shell:
        "python -m chord.train {params.reads} --model {output.model} --metrics {output.metrics}"
        " --timing {output.timing} --manifest {output.manifest}"
        " --state results/{wildcards.study}/models/base/state > {log} 2>&1"


rule describe_run:
    output:
        run="results/{study}/runs/{arm}/seed-{seed}/run.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/describe.log",
    wildcard_constraints:
        arm=arms_that("recipe"),
    priority: 90
    localrule: True
    conda:
        "../../envs/data.yaml"
    params:
        run=run_of_arm,
    shell:
        "printf '%s\\n' {params.run:q} > {output.run} 2> {log}"


rule train:
    input:
        unpack(training_inputs),
    output:
        model=directory("results/{study}/runs/{arm}/seed-{seed}/model"),
        metrics="results/{study}/runs/{arm}/seed-{seed}/metrics.jsonl",
        timing="results/{study}/runs/{arm}/seed-{seed}/timing.jsonl",
        tensorboard=directory("results/{study}/runs/{arm}/seed-{seed}/tensorboard"),
        manifest="results/{study}/runs/{arm}/seed-{seed}/train.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/train.log",
    benchmark:
        "results/{study}/runs/{arm}/seed-{seed}/train.benchmark.tsv"
    wildcard_constraints:
        arm=arms_that("recipe"),
    priority: training_turn
    conda:
        "../../envs/train.yaml"
    threads: project.study.execution.cpu_threads
    params:
        code=code_digest("chord.train"),
        reads=as_flags,
    message:
        "Training {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord.train {params.reads} --model {output.model} --metrics {output.metrics}"
        " --timing {output.timing} --tensorboard {output.tensorboard} --manifest {output.manifest}"
        " --state results/{wildcards.study}/runs/{wildcards.arm}/seed-{wildcards.seed}/state > {log} 2>&1"


rule choose:
    input:
        unpack(candidates),
    output:
        model=directory("results/{study}/runs/{arm}/seed-{seed}/model"),
        metrics="results/{study}/runs/{arm}/seed-{seed}/metrics.jsonl",
        chosen="results/{study}/runs/{arm}/seed-{seed}/chosen.json",
        manifest="results/{study}/runs/{arm}/seed-{seed}/choose.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/choose.log",
    wildcard_constraints:
        arm=arms_that("choose"),
    priority: 90
    conda:
        "../../envs/train.yaml"
    params:
        code=code_digest("chord.choose"),
        runs=folders_of_models,
    message:
        "Choosing {wildcards.arm} on the validation set, seed {wildcards.seed}"
    shell:
        "python -m chord.choose --candidates {params.runs:q} --model {output.model} --metrics {output.metrics}"
        " --chosen {output.chosen} --manifest {output.manifest} > {log} 2>&1"
