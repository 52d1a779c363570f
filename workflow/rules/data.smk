# Problems, all disjoint, and the expert's checked traces of how to solve them.


rule prepare:
    output:
        problems=expand("results/{{study}}/data/problems/{split}.jsonl", split=problem_sets()),
        benchmarks=expand("results/{{study}}/data/benchmarks/{benchmark}.jsonl", benchmark=project.study.benchmarks),
        counts="results/{study}/data/prepare.json",
        manifest="results/{study}/data/prepare.manifest.json",
    log:
        "results/{study}/data/prepare.log",
    benchmark:
        "results/{study}/data/prepare.benchmark.tsv"
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        code=code_digest("chord.prepare"),
        settings=problem_settings,
    message:
        "Drawing the problems of study {wildcards.study}"
    shell:
        "python -m chord.prepare --study config/studies/{wildcards.study}.yaml"
        " --problems results/{wildcards.study}/data/problems --benchmarks results/{wildcards.study}/data/benchmarks"
        " --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"


rule demonstrate:
    input:
        problems=problems_to_solve,
    output:
        traces=expand("results/{{study}}/data/traces/{traces}.jsonl", traces=solved_sets()),
        counts="results/{study}/data/demonstrate.json",
        manifest="results/{study}/data/demonstrate.manifest.json",
    log:
        "results/{study}/data/demonstrate.log",
    benchmark:
        "results/{study}/data/demonstrate.benchmark.tsv"
    priority: 100
    conda:
        "../../envs/data.yaml"
    params:
        code=code_digest("chord.demonstrate"),
        settings=trace_settings,
    message:
        "Writing the expert traces of study {wildcards.study}"
    shell:
        "python -m chord.demonstrate --study config/studies/{wildcards.study}.yaml"
        " --problems results/{wildcards.study}/data/problems --traces results/{wildcards.study}/data/traces"
        " --counts {output.counts} --manifest {output.manifest} > {log} 2>&1"
