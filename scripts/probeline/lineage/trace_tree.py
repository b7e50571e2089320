"""The tree of `audit trace`: what differs by shard alone is one branch, what is everywhere is said once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rich.text import Text
from rich.tree import Tree

from probeline.digests import sha256_file
from probeline.files import MANIFEST, read_json
from probeline.lineage.cost import cost_line
from probeline.lineage.graph import Lineage
from probeline.lineage.records import Dependency, Record, artifact_of
from probeline.lineage.terminal import family, family_label, line, short, value_text
from probeline.reports.estimates import many

MOST_PLACES = 8
"""Folders of raw logs that are counted one by one."""
SHOWN_PACKAGES = ("snakemake", "torch", "transformers", "scikit-learn", "numpy")


def trace_tree(lineage: Lineage, record: Record, full: bool = False) -> Tree:
    """What a record's artifact was made from, as a tree for the terminal.

    Args:
        lineage: all records.
        record: the artifact's.
        full: show every shard, source and raw log by itself.
    """
    tree = Tree(_title([record]), guide_style="dim")
    _fill(tree, lineage, [record], full, set())
    everything = lineage.ancestors([record])
    whole = tree.add(line(("whole lineage", "bold"), f"  {many(len(everything), 'artifact')}"))
    for text in _surroundings(everything, full):
        whole.add(text)
    whole.add(line(("cost  ", "cyan"), cost_line(everything)))
    return tree


def _title(records: Sequence[Record], role: str = "") -> Text:
    label = family_label([record.name for record in records])
    return line((f"{role}  " if role else "", "cyan"), (label, "bold"), (f"  {records[0].rule}", "dim"))


def _fill(tree: Tree, lineage: Lineage, records: list[Record], full: bool, shown: set[str]) -> None:
    """The branches of some records that stand together: their own facts, then what they were made from."""
    shown.update(record.name for record in records)
    for text in _own_facts(records, full):
        tree.add(text)
    raw: dict[str, list[Dependency]] = {}
    above: dict[tuple[str, str], dict[str, Dependency]] = {}
    for record in records:
        for dependency in record.dependencies:
            if dependency.record is None:
                raw.setdefault(dependency.role, []).append(dependency)
            else:
                name = artifact_of(Path(dependency.record)).as_posix()
                group = name if full else family(name)
                above.setdefault((dependency.role, group), {}).setdefault(name, dependency)
    other = {name for record in records for name in lineage.superseded(record)}
    for role, dependencies in raw.items():
        _add_raw(tree, role, dependencies, full)
    for (role, _), named in above.items():
        parents = [lineage.records[name] for name in named if name in lineage.records and name not in other]
        gone = [name for name in named if name not in lineage.records]
        anew = [name for name in named if name in other]
        for names, why in ((gone, "its record is missing"), (anew, "made anew since, its record is another")):
            if names:
                tree.add(line((f"{role}  ", "cyan"), family_label(names), (f"  {why}", "bold red")))
        if not parents:
            continue
        branch = _title(parents, role)
        if shown.issuperset(parent.name for parent in parents):
            tree.add(line(branch, ("  as above", "dim")))
            continue
        changed = [parent.name for parent in parents if parent.sha256 != named[parent.name].record_sha256]
        below = tree.add(branch)
        if changed:
            below.add(line((f"made anew since, the same to the bit ({many(len(changed), 'record')})", "dim")))
        _fill(below, lineage, parents, full, shown)


def _own_facts(records: list[Record], full: bool) -> Iterable[Text]:
    """What is a fact of these artifacts themselves."""
    params = [{key: value for key, value in record.params.items() if key != "code"} for record in records]
    if params[0]:
        texts = []
        for key, value in params[0].items():
            same = all(other.get(key) == value for other in params)
            texts.append(f"{key}={value_text(value) if same else '(by shard)'}")
        yield line(("params  ", "cyan"), ", ".join(texts))
    if full:
        for file, digest in records[0].code.items():
            yield line(("code  ", "cyan"), file, (f"  {digest}", "dim"))
    else:
        codes = {short(_digest(record, "code")) for record in records}
        text = f"{many(len(records[0].code), 'source')}, {' and '.join(sorted(codes))}"
        yield line(("code  ", "cyan"), (text, "red" if len(codes) > 1 else ""))
    games = _games(records)
    if games:
        yield line(("games  ", "cyan"), games)
    if records[0].rule == "fetch_model":
        yield line(("weights  ", "cyan"), _weights(records[0]))


def _digest(record: Record, role: str) -> str:
    found = record.other_dependency(role)
    return next(iter(found["digest"].values())) if found else "none"


def _games(records: list[Record]) -> str:
    """`17 train, 4 validation, 3 test`."""
    splits: dict[str, set[str]] = {}
    for record in records:
        for split, games in record.games.items():
            splits.setdefault(split, set()).update(games)
    if set(splits) == {"all"}:
        return str(len(splits["all"]))
    order = ("train", "validation", "test")
    names = [*(name for name in order if name in splits), *sorted(splits.keys() - set(order))]
    return ", ".join(f"{len(splits[name]):,} {name}" for name in names)


def _weights(record: Record) -> str:
    """The digest that probes name their model by; that of its files where they are away."""
    subject = record.subjects[0]
    manifest = Path(subject.name) / MANIFEST
    # Only the manifest that the record is of: another may lie there by now.
    if manifest.is_file() and sha256_file(manifest) == subject.files.get(MANIFEST):
        digest = read_json(manifest).get("weights_sha256")
        if isinstance(digest, str):
            return short(digest)
    weights = {name: digest for name, digest in subject.files.items() if name.endswith(".safetensors")}
    return ", ".join(f"{name} {short(digest)}" for name, digest in weights.items()) or "none"


def _add_raw(tree: Tree, role: str, dependencies: list[Dependency], full: bool) -> None:
    """Files that no rule made: by themselves where they are few, else counted by folder."""
    files = {dependency.name: dependency.sha256 for dependency in dependencies}
    if full or len(files) == 1:
        for name, digest in sorted(files.items()):
            tree.add(line((f"{role}  ", "cyan"), name, (f"  {short(digest)}", "dim")))
        return
    places = _by_place(files)
    branch = tree.add(line((f"{role}  ", "cyan"), f"{many(len(files), 'file')} that no rule made"))
    for place, count in sorted(places.items()):
        branch.add(line(f"{place}/  ", (many(count, "file"), "dim")))


def _by_place(files: Iterable[str]) -> Counter[str]:
    """Files by folder, as deep as leaves few folders: experiments rather than games."""
    folders = Counter(PurePosixPath(file).parent for file in files)
    while len(folders) > MOST_PLACES and any(len(folder.parts) > 1 for folder in folders):
        deepest = max(len(folder.parts) for folder in folders)
        raised: Counter[PurePosixPath] = Counter()
        for folder, count in folders.items():
            raised[folder.parent if len(folder.parts) == deepest else folder] += count
        folders = raised
    return Counter({folder.as_posix(): count for folder, count in folders.items()})


def _surroundings(records: list[Record], full: bool) -> Iterable[Text]:
    """Commit, lock file, versions and machines over a whole lineage: what they agree in is one line."""
    commits: Counter[str] = Counter()
    dirty: set[str] = set()
    for record in records:
        source = record.other_dependency("source")
        commits[short(source["digest"]["gitCommit"]) if source else "outside git"] += 1
        dirty.update(source["annotations"]["dirty"] if source else ())
    named = sorted(dirty) if full else sorted(dirty)[:MOST_PLACES]
    more = f" and {len(dirty) - len(named):,} more" if len(dirty) > len(named) else ""
    state = f"not as committed: {', '.join(named)}{more}" if dirty else "sources as committed"
    yield line(("commit  ", "cyan"), _counted(commits), ("; ", ""), (state, "yellow" if dirty else ""))
    yield line(("lock  ", "cyan"), _counted(Counter(short(_digest(record, "lock")) for record in records)))
    names = None if full else SHOWN_PACKAGES
    yield line(("versions  ", "cyan"), _counted(Counter(_versions(record, names) for record in records)))
    yield line(("machine  ", "cyan"), _counted(Counter(_machine(record) for record in records)))


def _counted(values: Counter[str]) -> str:
    """The one value, or each with the number of artifacts that have it."""
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({count:,})" for value, count in values.most_common())


def _versions(record: Record, names: Iterable[str] | None) -> str:
    packages = record.environment["packages"]
    chosen = packages if names is None else [name for name in names if name in packages]
    return ", ".join(
        [f"python {record.environment['python']}", *(f"{name} {packages[name]}" for name in chosen)]
    )


def _machine(record: Record) -> str:
    hardware = record.environment["hardware"]
    gpus = [f"{count} x {name}" for name, count in Counter(hardware["gpus"]).items()]
    return ", ".join([record.cost["backend"], str(hardware["processor"]), *gpus])
