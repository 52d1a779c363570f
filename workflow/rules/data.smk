# Problems, a set at a time, and the expert's checked traces of how to solve them. No two sets share a prompt.


rule prepare:
    input:
        unpack(reads("prepare")),
        because=because("prepare"),
    output:
        **made("prepare"),
    log:
        "results/{study}/data/problems/{set}.log",
    wildcard_constraints:
        **only("prepare"),
    priority: 100
    conda:
        environment("prepare")
    params:
        set="{set}",
        reads=flags_in,
        writes=flags_out,
    message:
        "Drawing the {wildcards.set} problems of study {wildcards.study}"
    shell:
        "python -m chord prepare --study {wildcards.study} --set {params.set}"
        " {params.reads} {params.writes} > {log} 2>&1"


use rule prepare as prepare_benchmark with:
    input:
        unpack(reads("prepare_benchmark")),
        because=because("prepare_benchmark"),
    output:
        **made("prepare_benchmark"),
    log:
        "results/{study}/data/benchmarks/{benchmark}.log",
    wildcard_constraints:
        **only("prepare_benchmark"),
    params:
        set="benchmark:{benchmark}",
    message:
        "Drawing the problems of benchmark {wildcards.benchmark} of study {wildcards.study}"


rule demonstrate:
    input:
        unpack(reads("demonstrate")),
        because=because("demonstrate"),
    output:
        **made("demonstrate"),
    log:
        "results/{study}/data/traces/{traces}.log",
    wildcard_constraints:
        **only("demonstrate"),
    priority: 100
    conda:
        environment("demonstrate")
    params:
        reads=flags_in,
        writes=flags_out,
    message:
        "Writing the {wildcards.traces} traces of study {wildcards.study}"
    shell:
        "python -m chord demonstrate --study {wildcards.study} --traces-of {wildcards.traces}"
        " {params.reads} {params.writes} > {log} 2>&1"


# A run that was killed goes on after its last finished shard, in `state`, which is no output: Snakemake leaves it alone.
rule ask_expert:
    input:
        unpack(reads("ask_expert")),
        because=because("ask_expert"),
    output:
        **made("ask_expert"),
    log:
        "results/{study}/data/traces/{traces}.log",
    wildcard_constraints:
        **only("ask_expert"),
    priority: 100
    retries: requests.retries
    conda:
        environment("ask_expert")
    threads: project.study.execution.cpu_threads
    resources:
        **requests.of_rule("ask_expert"),
    params:
        reads=flags_in,
        writes=flags_out,
        sent=requests.shown,
    message:
        "Asking the expert of study {wildcards.study} for the {wildcards.traces} traces{params.sent}"
    shell:
        "python -m chord ask-expert --study {wildcards.study} --traces-of {wildcards.traces}"
        " {params.reads} {params.writes} --threads {threads}"
        " --state results/{wildcards.study}/data/traces/state/{wildcards.traces} > {log} 2>&1"
