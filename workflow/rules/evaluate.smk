# Answers and scores, one job for each benchmark of a model, so that each is made again alone.
# The first job of a model does the work of its siblings ahead; theirs then take what lies ready.


rule generate:
    input:
        model=evaluated_model,
        problems="results/{study}/data/benchmarks/{benchmark}.jsonl",
        because=because("runs/{arm}/seed-{seed}/eval/{benchmark}/answers.manifest.json"),
    output:
        answers="results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/answers.jsonl",
        manifest="results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/answers.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/generate.log",
    benchmark:
        "results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/generate.benchmark.tsv"
    priority: generating_turn
    conda:
        environment("generate")
    threads: project.study.execution.cpu_threads
    resources:
        **asked("generate"),
    params:
        ahead=answers_ahead,
        sent=sent_with,
    message:
        "Answering {wildcards.benchmark} with {wildcards.arm}, seed {wildcards.seed}{params.sent}"
    shell:
        "python -m chord generate --study config/studies/{wildcards.study}.yaml --benchmark {wildcards.benchmark}"
        " --model {input.model} --problems {input.problems} --seed {wildcards.seed}"
        " --threads {threads} --answers {output.answers} --manifest {output.manifest} {params.ahead} > {log} 2>&1"


rule score:
    input:
        answers="results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/answers.jsonl",
        problems="results/{study}/data/benchmarks/{benchmark}.jsonl",
        because=because("runs/{arm}/seed-{seed}/eval/{benchmark}/scores.manifest.json"),
    output:
        scores="results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/scores.json",
        manifest="results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/scores.manifest.json",
    log:
        "results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/score.log",
    priority: scoring_turn
    conda:
        "../../envs/evaluate.yaml"
    params:
        ahead=scores_ahead,
    message:
        "Scoring {wildcards.benchmark} of {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord score --study config/studies/{wildcards.study}.yaml --benchmark {wildcards.benchmark}"
        " --answers {input.answers} --problems {input.problems}"
        " --scores {output.scores} --manifest {output.manifest} {params.ahead} > {log} 2>&1"
