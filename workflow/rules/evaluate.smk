# Answers and scores, one job for each benchmark of a model, so that each is made again alone.
# The first job of a model does the work of its siblings ahead; theirs then take what lies ready.


rule generate:
    input:
        unpack(reads("generate")),
        because=because("generate"),
    output:
        **made("generate"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/generate.log",
    wildcard_constraints:
        **only("generate"),
    priority: turn(10)  # all answers before the first scores
    conda:
        environment("generate")
    threads: project.study.execution.cpu_threads
    resources:
        **requests.of_rule("generate"),
    params:
        reads=flags_in,
        writes=flags_out,
        ahead=ahead("generate"),
        sent=requests.shown,
    message:
        "Answering {wildcards.benchmark} with {wildcards.arm}, seed {wildcards.seed}{params.sent}"
    shell:
        "python -m chord generate --study {wildcards.study} --benchmark {wildcards.benchmark}"
        " --seed {wildcards.seed} {params.reads} {params.writes} --threads {threads} {params.ahead} > {log} 2>&1"


rule score:
    input:
        unpack(reads("score")),
        because=because("score"),
    output:
        **made("score"),
    log:
        "results/{study}/runs/{arm}/seed-{seed}/eval/{benchmark}/score.log",
    wildcard_constraints:
        **only("score"),
    priority: turn(0)
    conda:
        environment("score")
    params:
        reads=flags_in,
        writes=flags_out,
        ahead=ahead("score"),
    message:
        "Scoring {wildcards.benchmark} of {wildcards.arm}, seed {wildcards.seed}"
    shell:
        "python -m chord score --study {wildcards.study} --benchmark {wildcards.benchmark}"
        " {params.reads} {params.writes} {params.ahead} > {log} 2>&1"
