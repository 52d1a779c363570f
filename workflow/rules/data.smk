# Problems, a set at a time, and the expert's checked traces of how to solve them. No two sets share a prompt.


rule prepare:
    input:
        unpack(beside_set),
        because=because("data/problems/{set}.manifest.json"),
    output:
        problems="results/{study}/data/problems/{set}.jsonl",
        counts="results/{study}/data/problems/{set}.json",
        manifest="results/{study}/data/problems/{set}.manifest.json",
    log:
        "results/{study}/data/problems/{set}.log",
    benchmark:
        "results/{study}/data/problems/{set}.benchmark.tsv"
    wildcard_constraints:
        set="train|validation|expert|base",
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        code=code_of_set,
        beside=as_many_flags,
    message:
        "Drawing the {wildcards.set} problems of study {wildcards.study}"
    shell:
        "python -m chord.prepare --study config/studies/{wildcards.study}.yaml --set {wildcards.set} {params.beside}"
        " --problems {output.problems} --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


rule prepare_benchmark:
    input:
        because=because("data/benchmarks/{benchmark}.manifest.json"),
    output:
        problems="results/{study}/data/benchmarks/{benchmark}.jsonl",
        counts="results/{study}/data/benchmarks/{benchmark}.json",
        manifest="results/{study}/data/benchmarks/{benchmark}.manifest.json",
    log:
        "results/{study}/data/benchmarks/{benchmark}.log",
    benchmark:
        "results/{study}/data/benchmarks/{benchmark}.benchmark.tsv"
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        code=code_of_benchmark,
    message:
        "Drawing the problems of benchmark {wildcards.benchmark} of study {wildcards.study}"
    shell:
        "python -m chord.prepare --study config/studies/{wildcards.study}.yaml --set benchmark:{wildcards.benchmark}"
        " --problems {output.problems} --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


rule demonstrate:
    input:
        unpack(beside_traces_of),
        problems=problems_to_solve,
        because=because("data/traces/{traces}.manifest.json"),
    output:
        traces="results/{study}/data/traces/{traces}.jsonl",
        counts="results/{study}/data/traces/{traces}.json",
        manifest="results/{study}/data/traces/{traces}.manifest.json",
    log:
        "results/{study}/data/traces/{traces}.log",
    benchmark:
        "results/{study}/data/traces/{traces}.benchmark.tsv"
    wildcard_constraints:
        traces="expert|aligned|base",
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        code=code_of_traces,
        beside=as_many_flags,
    message:
        "Writing the {wildcards.traces} traces of study {wildcards.study}"
    shell:
        "python -m chord.demonstrate --study config/studies/{wildcards.study}.yaml --traces-of {wildcards.traces}"
        " {params.beside} --problems {input.problems} --traces {output.traces}"
        " --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"
