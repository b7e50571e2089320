from snakemake.utils import min_version

min_version("9.27")


# Any environment that holds the locked versions serves; the Dockerfile at the root makes this one.
container: "docker://probeline:0.1.0"


configfile: "config/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/logs.smk"
include: "rules/datasets.smk"
include: "rules/models.smk"
include: "rules/activations.smk"
include: "rules/probes.smk"
include: "rules/evaluation.smk"


rule all:
    default_target: True
    input:
        rules.probes.input,
        rules.evaluation.input,
        rules.sweeps.input,


onstart:
    in_words(hold_workflow_lock)(Path(".snakemake/probeline.lock"))


onsuccess:
    remove_orphans(RESULTS_OF_GAMES, EXTRACTION_JOBS)
    print_summary()
    track_versions()
