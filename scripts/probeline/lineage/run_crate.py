"""A Provenance Run Crate 0.5 of the records: https://w3id.org/ro/wfrun/provenance/0.5.

The Snakefile is the workflow, each rule a step of it, the code of a rule (by digest) a tool. Each record is
an action of that tool, and all together are one run.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from probeline.digests import canonical_bytes, canonical_digest
from probeline.errors import ProbelineError
from probeline.lineage.crate_data import CrateData, context, quoted
from probeline.lineage.graph import Lineage
from probeline.lineage.records import Record
from probeline.lineage.root import root_digest

RO_CRATE = "1.1"
"""What the run profiles 0.5 are profiles of."""
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
# Terms beside those of RO-Crate 1.1. Written out, so that reading a crate takes one context, not two.
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("resourceUsage", "sha256")}
SNAKEFILE = Path("Snakefile")
COMPLETED = "http://schema.org/CompletedActionStatus"
SECONDS = "https://qudt.org/vocab/unit/SEC"
TYPES = {bool: "Boolean", int: "Integer", float: "Float"}


def write_crate(folder: Path, lineage: Lineage, records: Sequence[Record], with_data: bool) -> None:
    """Write a crate. The same records make the same bytes.

    Args:
        folder: an empty one.
        lineage: all records.
        records: those to export, with all above them.
        with_data: copy the artifacts; else they are named by digest.

    Raises:
        ProbelineError: there is no Snakefile here, or a file is missing or not what its record says.
    """
    if not SNAKEFILE.is_file():
        raise ProbelineError("There is no Snakefile here. Run this in the folder of the workflow.")
    crate = ROCrate(version=RO_CRATE)
    crate.metadata.extra_terms.update(TERMS)
    root = crate.root_dataset
    root["name"] = "Lineage of a Probeline workflow"
    root["description"] = (
        f"Where {len(records)} artifacts come from. "
        f"Digest of all records of the project: sha256:{root_digest(lineage)}."
    )
    root["datePublished"] = max(_moment(record.metadata["finishedOn"]) for record in records)
    root["license"] = context(
        crate,
        "#licence-of-the-data",
        "CreativeWork",
        name="No licence was chosen",
        description="Name the licence of the data here before you publish this crate.",
    )
    root["conformsTo"] = [
        context(crate, url, "CreativeWork", name=name, version=version)
        for url, (name, version) in PROFILES.items()
    ]
    _Run(crate, records, with_data).describe()
    _unwrap(crate)
    crate.write(folder)


class _Run:
    """The one run that all records belong to.

    Args:
        crate: to fill.
        records: each after what it was made from.
        with_data: whether artifacts are copied.
    """

    def __init__(self, crate: ROCrate, records: Sequence[Record], with_data: bool) -> None:
        self.crate = crate
        self.records = records
        self.workflow = crate.add_workflow(
            SNAKEFILE,
            SNAKEFILE.name,
            main=True,
            lang="snakemake",
            properties={
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "name": "Probeline",
                "version": " ".join(self._commits()) or "unknown",
                "license": "https://spdx.org/licenses/Apache-2.0",
                "encodingFormat": "text/plain",
            },
        )
        self.data = CrateData(crate, with_data)
        self.tools: dict[str, Entity] = {}
        self.steps: dict[str, Entity] = {}
        self.parameters: dict[str, tuple[Entity, set[str]]] = {}

    def _commits(self) -> list[str]:
        found = (record.other_dependency("source") for record in self.records)
        return sorted({given["digest"]["gitCommit"] for given in found if given is not None})

    def describe(self) -> None:
        """Add everything."""
        actions, controls = [], []
        for record in self.records:
            action = self._action(record)
            actions.append(action)
            controls.append(
                context(
                    self.crate,
                    f"#control/{quoted(record.name)}",
                    "ControlAction",
                    name=f"{record.rule} for {record.name}",
                    instrument=self.steps[record.rule],
                    object=action,
                )
            )
        for parameter, types in self.parameters.values():
            parameter["additionalType"] = types.pop() if len(types) == 1 else "Text"
        parameters = [parameter for parameter, _ in self.parameters.values()]
        self.workflow["hasPart"] = list(self.tools.values())
        self.workflow["step"] = list(self.steps.values())
        if parameters:
            self.workflow["input"] = parameters
        made = {subject.name for record in self.records for subject in record.subjects}
        run = context(
            self.crate,
            "#run",
            "CreateAction",
            name="Run of the workflow",
            description="All jobs whose records are in this crate; they may be of several runs of Snakemake.",
            instrument=self.workflow,
            startTime=min(_moment(record.metadata["startedOn"]) for record in self.records),
            endTime=max(_moment(record.metadata["finishedOn"]) for record in self.records),
            actionStatus=COMPLETED,
            object=[entity for name, entity in self.data.entities.items() if name not in made],
            result=[entity for name, entity in self.data.entities.items() if name in made],
        )
        self.crate.root_dataset["mentions"] = [run, *actions]
        context(
            self.crate,
            "#organisation",
            "OrganizeAction",
            name="Snakemake's run of the jobs",
            instrument=self._engine(),
            object=controls,
            result=run,
        )

    def _action(self, record: Record) -> Entity:
        """One job, and its record as a file."""
        tool = self._tool(record)
        values = [self._value(record.rule, tool, key, value) for key, value in _given(record)]
        inputs = [self.data.read(d.name, d.sha256) for d in record.dependencies]
        action = context(
            self.crate,
            f"#job/{quoted(record.name)}",
            "CreateAction",
            name=f"{record.rule}: {record.name}",
            description=f"The rule {record.rule} made {record.name}. Its record: {record.path.as_posix()}.",
            instrument=tool,
            startTime=_moment(record.metadata["startedOn"]),
            endTime=_moment(record.metadata["finishedOn"]),
            actionStatus=COMPLETED,
            object=list({entity.id: entity for entity in [*inputs, *values]}.values()),
            result=[self.data.made(subject) for subject in record.subjects],
            resourceUsage=[
                context(
                    self.crate,
                    f"#usage/{key}/{quoted(record.name)}",
                    "PropertyValue",
                    name=key,
                    propertyID=f"urn:probeline:{key}",
                    value=str(record.cost[key]),
                    unitCode=SECONDS,
                )
                for key in ("seconds", "processorSeconds", "gpuSeconds")
                if key in record.cost
            ],
        )
        file = self.crate.add_file(
            record.path,
            record.path.as_posix(),
            properties={
                "name": f"Lineage record of {record.name}",
                "description": "An in-toto Statement with SLSA provenance.",
                "encodingFormat": "application/json",
                "contentSize": str(record.path.stat().st_size),
                "sha256": record.sha256,
            },
        )
        action["subjectOf"] = file
        return action

    def _tool(self, record: Record) -> Entity:
        """The code of a rule at one state; the rule is a step that was run by each such state."""
        version = canonical_digest(record.code)
        key = f"#tool/{quoted(record.rule)}/{version[:16]}"
        if key not in self.tools:
            self.tools[key] = context(
                self.crate,
                key,
                "SoftwareApplication",
                name=record.rule,
                description=f"scripts/{record.rule}.py with all local code that it imports.",
                softwareVersion=version,
                url="https://snakemake.github.io",
            )
            step = self.steps.get(record.rule)
            if step is None:
                step = self.steps[record.rule] = context(
                    self.crate,
                    f"#step/{quoted(record.rule)}",
                    "HowToStep",
                    name=record.rule,
                    position=str(len(self.steps) + 1),
                )
            step.append_to("workExample", self.tools[key])
        return self.tools[key]

    def _value(self, rule: str, tool: Entity, key: str, value: Any) -> Entity:
        """A parameter's value; the parameter is an input of the tool, and of the workflow."""
        name = f"{rule}.{key}"
        if name not in self.parameters:
            parameter = context(self.crate, f"#parameter/{quoted(name)}", "FormalParameter", name=name)
            self.parameters[name] = (parameter, set())
        parameter, types = self.parameters[name]
        types.add(TYPES.get(type(value), "Text"))
        if parameter not in tool.get("input", []):
            tool.append_to("input", parameter)
        text = value if isinstance(value, str) else canonical_bytes(value).decode()
        identifier = f"#value/{quoted(name)}/{canonical_digest(value)[:16]}"
        known = self.crate.get(identifier)
        if known is None:
            known = context(
                self.crate, identifier, "PropertyValue", name=name, value=text, exampleOfWork=parameter
            )
            parameter.append_to("workExample", known)
        return known

    def _engine(self) -> Entity:
        versions = sorted(
            {
                record.statement["predicate"]["runDetails"]["builder"]["version"]["snakemake"]
                for record in self.records
            }
        )
        return context(
            self.crate,
            "#snakemake",
            "SoftwareApplication",
            name="Snakemake",
            softwareVersion=" ".join(versions),
            url="https://snakemake.github.io",
        )


def _unwrap(crate: ROCrate) -> None:
    """One value stands without a list around it, as RO-Crate 1.1 recommends."""
    for entity in crate.get_entities():
        properties = entity.properties()
        for name, value in properties.items():
            if isinstance(value, list) and len(value) == 1:
                properties[name] = value[0]


def _given(record: Record) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in record.params.items() if key != "code")


def _moment(text: str) -> str:
    """ISO 8601 as the profiles want it."""
    return text.replace("Z", "+00:00")
