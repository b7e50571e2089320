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
include: "rules/adapters.smk"
include: "rules/evaluation.smk"
include: "rules/reports.smk"


rule all:
    default_target: True
    input:
        rules.probes.input,
        rules.evaluation.input,
        rules.sweeps.input,
        rules.report.input,
    message:
        "Everything that the config names is made."


# Before a job, Snakemake deletes its outputs one by one. The record is the first of every rule, so that no kill
# leaves it beside half a folder. Jobs' own processes do not look: what is being made has no record yet.
if workflow.is_main_process:
    for line in in_words(mark_unfinished)(workflow.rules):
        print(line, file=sys.stderr)


onstart:
    in_words(hold_workflow_lock)(Path(".snakemake/probeline.lock"))
    in_words(check_judges)(workflow.dag, config)
    in_words(check_budget)(workflow.dag, config)
    in_words(prepare_modal)(workflow.dag, config)


onsuccess:
    remove_orphans(RESULTS_OF_GAMES, EXTRACTION_JOBS)
    print_summary()
    track_versions()
    let_go()


onerror:
    print_failures()
    let_go()
