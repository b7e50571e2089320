"""What the workflow would use and rerun now: asked of Snakemake, in a process of its own.

`ask` starts it; the rest runs in that process: `python -m probeline.lineage.workflow_state`, the question on
standard input. Of Snakemake's inner parts it touches rules, jobs and their reasons.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from probeline.errors import ProbelineError
from probeline.lineage.records import Record


def ask(
    records: Iterable[Record], configfiles: Sequence[Path], target: Record | None = None
) -> dict[str, Any]:
    """What the workflow would use now, and what it would rerun.

    Args:
        records: of the artifacts that are asked about.
        configfiles: laid over config/config.yaml.
        target: what a dry run is made for, if any.

    Returns:
        `present`: artifact → `params` and `inputs` (path → role), or `fault` in words; `reruns`: artifact →
        why it would be made again, in the order of the runs.

    Raises:
        ProbelineError: the workflow cannot be read or planned; in Snakemake's words.
    """
    return _asked(
        configfiles,
        {
            "records": [[one.name, one.rule, one.wildcards, one.path.as_posix()] for one in records],
            "target": None if target is None else target.path.as_posix(),
        },
    )


def ask_plan(targets: Sequence[str], configfiles: Sequence[Path]) -> dict[str, Any]:
    """What a run would cost on Modal, also where the config lets it run here.

    Args:
        targets: as Snakemake takes them; none for what a plain run makes.
        configfiles: laid over config/config.yaml.

    Returns:
        `jobs`: the plan, see `compute.plan.PlannedJob`; `compute`: where the config lets it run; `modal`:
        its settings.

    Raises:
        ProbelineError: the workflow cannot be read or planned; in Snakemake's words.
    """
    plan: dict[str, Any] = _asked(configfiles, {"records": [], "target": None, "plan": list(targets)})["plan"]
    return plan


def _asked(configfiles: Sequence[Path], question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own."""
    for file in configfiles:
        if not file.is_file():
            raise ProbelineError(f"{file} does not exist.")
    question = {"configfiles": [str(file.absolute()) for file in configfiles], **question}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=orjson.dumps(question),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise ProbelineError("Snakemake ended with a fault:\n" + "\n".join(lines[-6:]))
    answer: dict[str, Any] = orjson.loads(done.stdout)
    if answer["fault"]:
        raise ProbelineError(
            f"Snakemake cannot plan with the workflow as it is now: {answer['fault']}\n"
            "Where the run had a config of its own, name it: --configfile FILE."
        )
    return answer


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    import snakemake.settings.types as settings
    from snakemake.api import SnakemakeApi

    quiet = settings.OutputSettings(dryrun=True, quiet={settings.Quietness.ALL})
    answer: dict[str, Any] = {"present": {}, "reruns": {}, "plan": None, "fault": None}
    planned = "plan" in question
    with SnakemakeApi(quiet) as api:
        try:
            flow = api.workflow(
                resource_settings=settings.ResourceSettings(cores=1),
                config_settings=settings.ConfigSettings(
                    configfiles=[Path(file) for file in question["configfiles"]],
                    config={"compute": "modal"} if planned else {},
                ),
            )
            answer["present"] = {
                name: _present(flow._workflow, rule, wildcards, path)
                for name, rule, wildcards, path in question["records"]
            }
            if question["target"]:
                answer["reruns"] = _reruns(flow, question["target"])
            if planned:
                answer["plan"] = _plan(flow, question)
        except Exception as error:  # Whatever Snakemake says of the workflow is part of the answer.
            answer["fault"] = str(error).strip() or type(error).__name__
    return answer


def _present(workflow: Any, rule_name: str, wildcards: dict[str, str], path: str) -> dict[str, Any]:
    """What one rule would use now."""
    from snakemake.iocontainers import Wildcards

    from probeline.lineage.places import portable, portable_values, roots_of

    rule = workflow._rules.get(rule_name)
    if rule is None:
        return {"fault": f"there is no rule {rule_name} any more"}
    if not rule.is_producer(path):
        return {"fault": "the present config does not name it"}
    roots = roots_of(workflow.config)
    try:
        spec = dict(rule.params.items())["spec"](Wildcards(fromdict=wildcards))
        given = rule.expand_input(Wildcards(fromdict=wildcards))[0]
    except Exception as error:  # An input function may raise anything; the others still answer.
        return {"fault": str(error) or type(error).__name__}
    inputs = {
        portable(str(file), roots): role
        for role, files in given.items()
        for file in ([files] if isinstance(files, str) else files)
    }
    return {"params": portable_values(spec, roots), "inputs": inputs}


def _plan(flow: Any, question: dict[str, Any]) -> dict[str, Any]:
    """What a run would cost on Modal."""
    from dataclasses import asdict

    from probeline.config import load_config
    from probeline.lineage.planned_run import plan_of

    dag = _dry_run(flow, question["plan"])
    config = flow._workflow.config
    return {
        "jobs": [asdict(job) for job in plan_of(dag, config)],
        "compute": load_config([Path(file) for file in question["configfiles"]])["compute"],
        "modal": config["modal"],
    }


def _dry_run(flow: Any, targets: Iterable[str]) -> Any:
    """The graph of jobs for some targets, with what would be run."""
    import snakemake.settings.types as settings
    from snakemake.cli import parse_args

    # For the settings of the profile, which decide what counts as changed.
    _, profile = parse_args(["--dry-run", "--quiet", "all"])
    flow.dag(
        settings.DAGSettings(
            targets=set(targets),
            rerun_triggers=profile.rerun_triggers,
            max_checksum_file_size=profile.max_checksum_file_size,
        )
    ).execute_workflow(executor="dryrun", execution_settings=settings.ExecutionSettings(lock=False))
    return flow._workflow.dag


def _reruns(flow: Any, target: str) -> dict[str, Any]:
    """Artifact → why it would be made again."""
    from probeline.lineage.places import portable, roots_of
    from probeline.lineage.records import SUFFIX

    dag = _dry_run(flow, [target])
    roots = roots_of(flow._workflow.config)
    found: dict[str, Any] = {}
    for level in dag.toposorted():
        for job in sorted(filter(dag.needrun, level), key=lambda job: sorted(map(str, job.output))):
            reason = dag.reason(job)
            record = next((str(file) for file in job.output if str(file).endswith(SUFFIX)), None)
            if record is None:
                continue  # a target that gathers others
            found[record.removesuffix(SUFFIX)] = {
                "rule": job.rule.name,
                "reasons": list(reason.get_names()),
                "changed_files": sorted(portable(str(file), roots) for file in reason.updated_input),
                "missing": bool(reason.missing_output),
                "follows": bool(reason.updated_input_run),
            }
    return found


if __name__ == "__main__":
    # Snakemake prints to standard output, too.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = orjson.loads(sys.stdin.buffer.read())
    sys.argv = ["snakemake", *asked.get("plan", [])]  # the Snakefile looks at its targets there
    answered = orjson.dumps(_answer(asked))
    with output:
        output.write(answered)
