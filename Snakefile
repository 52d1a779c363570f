# The whole paper as one graph: problems -> traces -> models -> answers -> scores -> tables, figures, one page.
# `snakemake table1` builds one artefact, `snakemake` all that config/config.yaml names; profiles/ say where jobs run.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"  # checks everything under config/, or ends here


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


container: "envs/chord.sif"  # looked at with `--sdm apptainer` alone; envs/Containerfile says how to make it


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


# Every table and figure that the study builds, not only those that config/config.yaml names; hours where `all` is minutes.
rule everything:
    input:
        [file for artefact in dag.built for file in files_of(artefact)],
    message:
        "Every table and figure of the study is in results/"


onstart:
    rules_read.fork_jobs()


rule all:
    default_target: True
    input:
        collect("results/{study}/report.html", study=project.study.name),
        [file for artefact in (*project.choice.artefacts, "claims") for file in files_of(artefact)],
    message:
        "All that config/config.yaml names is in results/"


rules_read.refuse_other_targets()
rules_read.look_over()
