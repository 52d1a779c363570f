# Tables, figures, verdicts and one page over all of them; and a target for each file in config/experiments.


rule tabulate:
    input:
        unpack(reads("tabulate")),
        because=because("tabulate"),
    output:
        **made("tabulate", html={"caption": "table", "category": "Tables", "labels": {"table": "{table}"}}),
    log:
        "results/{study}/logs/{table}.log",
    wildcard_constraints:
        **only("tabulate"),
    conda:
        environment("tabulate")
    params:
        seeds=project.seeds,
        writes=flags_out,
    message:
        "Tabulating {wildcards.table}"
    shell:
        "python -m chord tabulate --study {wildcards.study} --seeds {params.seeds} --artefact {wildcards.table}"
        " --results results/{wildcards.study} {params.writes} > {log} 2>&1"


rule plot:
    input:
        unpack(reads("plot")),
        because=because("plot"),
    output:
        **made(
            "plot",
            svg={"caption": "figure", "category": "Figures", "labels": {"figure": "{figure}", "format": "SVG"}},
        ),
    log:
        "results/{study}/logs/{figure}.log",
    wildcard_constraints:
        **only("plot"),
    conda:
        environment("plot")
    params:
        seeds=project.seeds,
        writes=flags_out,
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m chord plot --study {wildcards.study} --seeds {params.seeds} --artefact {wildcards.figure}"
        " --results results/{wildcards.study} {params.writes} > {log} 2>&1"


rule judge:
    input:
        unpack(reads("judge")),
        because=because("judge"),
    output:
        **made(
            "judge",
            html={"caption": "claims", "category": "Claims", "labels": {"claims": "verdicts"}},
            svg={"caption": "claims", "category": "Claims", "labels": {"claims": "forest plot"}},
        ),
    log:
        "results/{study}/logs/claims.log",
    conda:
        environment("judge")
    params:
        seeds=project.seeds,
        artefacts=project.choice.artefacts,
        writes=flags_out,
    message:
        "Judging what the paper claims"
    shell:
        "python -m chord judge --study {wildcards.study} --seeds {params.seeds} --artefacts {params.artefacts}"
        " --results results/{wildcards.study} {params.writes} > {log} 2>&1"


rule report:
    input:
        unpack(reads("report")),
        because=because("report"),
    output:
        **made("report", html={"caption": "report", "category": "Report"}),
    log:
        "results/{study}/logs/report.log",
    conda:
        environment("report")
    params:
        seeds=project.seeds,
        artefacts=project.choice.artefacts,
        writes=flags_out,
    message:
        "Writing the page of study {wildcards.study}"
    shell:
        "python -m chord report --study {wildcards.study} --seeds {params.seeds} --artefacts {params.artefacts}"
        " --results results/{wildcards.study} {params.writes} > {log} 2>&1"


# `snakemake figure2` builds what config/experiments/figure2.yaml describes, `snakemake claims` the verdicts.
for artefact in (*project.artefacts, "claims"):

    rule:
        name:
            artefact
        input:
            asked_for(artefact),
        message:
            "What was asked for is in results/"
