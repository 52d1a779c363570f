# Tables, figures, verdicts and one page over all of them; and a target for each file in config/experiments.


rule tabulate:
    input:
        scores=table_scores,
        because=because("{table}.manifest.json"),
    output:
        json="results/{study}/{table}.json",
        markdown="results/{study}/{table}.md",
        html=report(
            "results/{study}/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        manifest="results/{study}/{table}.manifest.json",
    log:
        "results/{study}/logs/{table}.log",
    conda:
        "../../envs/report.yaml"
    params:
        seeds=project.seeds,
    message:
        "Tabulating {wildcards.table}"
    shell:
        "python -m chord tabulate --study {wildcards.study} --seeds {params.seeds} --artefact {wildcards.table}"
        " --results results/{wildcards.study} --json {output.json} --markdown {output.markdown} --html {output.html}"
        " --manifest {output.manifest} > {log} 2>&1"


rule plot:
    input:
        metrics=figure_metrics,
        because=because("{figure}.manifest.json"),
    output:
        json="results/{study}/{figure}.json",
        svg=report(
            "results/{study}/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}", "format": "SVG"},
        ),
        png="results/{study}/{figure}.png",
        manifest="results/{study}/{figure}.manifest.json",
    log:
        "results/{study}/logs/{figure}.log",
    conda:
        "../../envs/report.yaml"
    params:
        seeds=project.seeds,
    message:
        "Drawing {wildcards.figure}"
    shell:
        "python -m chord plot --study {wildcards.study} --seeds {params.seeds} --artefact {wildcards.figure}"
        " --results results/{wildcards.study} --json {output.json} --svg {output.svg} --png {output.png}"
        " --manifest {output.manifest} > {log} 2>&1"


rule judge:
    input:
        results=judged_results,
        because=because("claims.manifest.json"),
    output:
        json="results/{study}/claims.json",
        markdown="results/{study}/claims.md",
        html=report("results/{study}/claims.html", caption="../report/claims.rst", category="Claims"),
        manifest="results/{study}/claims.manifest.json",
    log:
        "results/{study}/logs/claims.log",
    conda:
        "../../envs/report.yaml"
    params:
        seeds=project.seeds,
        artefacts=project.choice.artefacts,
    message:
        "Judging what the paper claims"
    shell:
        "python -m chord judge --study {wildcards.study} --seeds {params.seeds} --artefacts {params.artefacts}"
        " --results results/{wildcards.study} --json {output.json} --markdown {output.markdown} --html {output.html}"
        " --manifest {output.manifest} > {log} 2>&1"


rule report:
    input:
        parts=page_parts,
        behind=page_behind,
        because=because("report.manifest.json"),
    output:
        html=report("results/{study}/report.html", caption="../report/report.rst", category="Report"),
        manifest="results/{study}/report.manifest.json",
    log:
        "results/{study}/logs/report.log",
    conda:
        "../../envs/report.yaml"
    params:
        seeds=project.seeds,
        artefacts=project.choice.artefacts,
    message:
        "Writing the page of study {wildcards.study}"
    shell:
        "python -m chord report --study {wildcards.study} --seeds {params.seeds} --artefacts {params.artefacts}"
        " --results results/{wildcards.study} --html {output.html} --manifest {output.manifest} > {log} 2>&1"


# `snakemake figure2` builds what config/experiments/figure2.yaml describes, `snakemake claims` the verdicts.
for artefact in (*project.artefacts, "claims"):

    rule:
        name:
            artefact
        input:
            asked_for(artefact),
        message:
            "What was asked for is in results/"
