"""The record beside every artifact: where it comes from, as an in-toto Statement with SLSA provenance.

`<artifact>.lineage.json` names by digest what a job made, what it read, the code, the parameters and the
environment. A dependency names the digest of its own record too, so that records chain: who changes one
upstream contradicts every record below. docs/lineage.md explains the fields.
"""

import re
import resource
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from probeline.digests import canonical_digest, sha256_bytes
from probeline.errors import ProbelineError
from probeline.files import write_bytes
from probeline.lineage.environment import environment, hardware, lock_file, repository
from probeline.lineage.games import TABLES, Games, games_in
from probeline.lineage.hashing import STAT_CACHE, digests_of, directory_digest, files_of
from probeline.lineage.places import portable, portable_values, roots_of
from probeline.lineage.running_code import RunningCode
from probeline.stat_cache import StatCache

SUFFIX = ".lineage.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:probeline:snakemake-rule:1"
MADE = ("data/processed/", "data/models/", "results/")
"""Where all that a rule reads was made by a rule."""

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
"""A date and time of UTC, as the Recorder writes it: texts of this form compare as the moments do."""
FIGURES = ("seconds", "processorSeconds", "gpuSeconds", "peakBytes", "usd")

Statement = dict[str, Any]


def record_path(artifact: Path) -> Path:
    """Where the record of an artifact lies: beside it."""
    return artifact.with_name(artifact.name + SUFFIX)


def artifact_of(record: Path) -> Path:
    """The artifact, a folder in most cases, that a record lies beside."""
    return record.with_name(record.name.removesuffix(SUFFIX))


def record_of(path: Path) -> Path | None:
    """The record that covers a file or folder, if any: that of the nearest artifact at or above it."""
    for artifact in (path, *path.parents):
        if artifact.name and record_path(artifact).is_file():
            return record_path(artifact)
    return None


@dataclass(frozen=True)
class Subject:
    """One output of a job.

    Attributes:
        name: path relative to the working directory.
        sha256: the `dirHash` of a folder, the digest of a file.
        files: relative path → SHA-256 of each file of a folder; empty for a file.
        bytes: size of all files.
        games: those in it, by split.
    """

    name: str
    sha256: str
    files: dict[str, str]
    bytes: int
    games: Games


@dataclass(frozen=True)
class Dependency:
    """One input of a job.

    Attributes:
        name: portable path, see `places.portable`.
        sha256: digest of the file.
        role: what the rule calls it (activations, dialogues, logs, …).
        record: path of its own record; None for what no rule made.
        record_sha256: digest of that record when it was read.
    """

    name: str
    sha256: str
    role: str
    record: str | None
    record_sha256: str | None


@dataclass(frozen=True)
class Record:
    """A record as read from its file.

    Attributes:
        path: of the file, relative to the working directory.
        sha256: digest of the file's bytes.
        statement: the JSON value.
    """

    path: Path
    sha256: str
    statement: Statement

    @cached_property
    def name(self) -> str:
        """The artifact's path: what people call it by."""
        return artifact_of(self.path).as_posix()

    @property
    def definition(self) -> dict[str, Any]:
        """SLSA's buildDefinition."""
        return self.statement["predicate"]["buildDefinition"]

    @property
    def rule(self) -> str:
        """The rule that made it."""
        return self.definition["externalParameters"]["rule"]

    @property
    def wildcards(self) -> dict[str, str]:
        """The rule's wildcards."""
        return self.definition["externalParameters"]["wildcards"]

    @property
    def params(self) -> dict[str, Any]:
        """The rule's one parameter, `spec`, as given, its code digests included (key `code`)."""
        return self.definition["externalParameters"]["params"]

    @property
    def outputs(self) -> list[str]:
        """The rule's outputs as declared, the record among them."""
        return self.definition["externalParameters"].get("outputs", [])

    @property
    def config(self) -> dict[str, Any]:
        """The complete config of the run, with portable paths; empty in records from before it was kept."""
        return self.definition["externalParameters"].get("config", {})

    @property
    def code(self) -> dict[str, str]:
        """Source file → digest of its code."""
        return self.params.get("code", {})

    @cached_property
    def subjects(self) -> list[Subject]:
        """What the job made."""
        return [_subject(given) for given in self.statement["subject"]]

    @cached_property
    def files(self) -> dict[str, str]:
        """Path → digest of each file that the job made."""
        listed: dict[str, str] = {}
        for subject in self.subjects:
            if subject.files:
                listed.update({f"{subject.name}/{name}": digest for name, digest in subject.files.items()})
            else:
                listed[subject.name] = subject.sha256
        return listed

    @cached_property
    def dependencies(self) -> list[Dependency]:
        """The rule's inputs, in their order; code, lock file and repository are not among them."""
        return [
            Dependency(
                given["name"],
                given["digest"]["sha256"],
                given["annotations"]["role"],
                given["annotations"].get("record"),
                given["annotations"].get("recordSha256"),
            )
            for given in self.definition["resolvedDependencies"]
            if given["annotations"].get("input")
        ]

    def other_dependency(self, role: str) -> dict[str, Any] | None:
        """A dependency that is no input of the rule: `code`, `lineage`, `lock` or `source`."""
        for given in self.definition["resolvedDependencies"]:
            if not given["annotations"].get("input") and given["annotations"]["role"] == role:
                return given
        return None

    @property
    def games(self) -> Games:
        """All games of its subjects, by split."""
        merged: Games = {}
        for subject in self.subjects:
            for split, members in subject.games.items():
                merged.setdefault(split, {}).update(members)
        return merged

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, and under `hardware` the machine."""
        return self.definition["internalParameters"]

    @property
    def metadata(self) -> dict[str, str]:
        """invocationId, startedOn, finishedOn."""
        return self.statement["predicate"]["runDetails"]["metadata"]

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds, processor seconds, GPU seconds, peak memory, money and where it ran."""
        return self.statement["predicate"]["runDetails"]["byproducts"][0]["annotations"]


def _subject(given: dict[str, Any]) -> Subject:
    digest, notes = given["digest"], given["annotations"]
    return Subject(
        given["name"],
        digest.get("dirHash") or digest["sha256"],
        notes.get("files", {}),
        notes["bytes"],
        notes.get("games", {}),
    )


def read_record(path: Path) -> Record:
    """Read a record and check that it is one, and that it says what it said when it was written.

    Raises:
        ProbelineError: it is missing, no record, or was edited; the text names it.
    """
    try:
        # A pipe in its place would be waited for.
        is_file = stat.S_ISREG(path.stat().st_mode)
        data = path.read_bytes() if is_file else b""
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist.") from error
    except OSError as error:
        raise ProbelineError(f"{path} cannot be read: {error.strerror}.") from error
    if not is_file:
        raise ProbelineError(f"{path} is no regular file.")
    return parse_record(path, data)


def parse_record(path: Path, data: bytes) -> Record:
    """The record in a file's bytes, wherever they come from; see `read_record`."""
    try:
        statement = orjson.loads(data)
        record = Record(path, sha256_bytes(data), statement)
        identity = record.metadata["invocationId"]
        _check_types(record)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ProbelineError(
            f"{path} is no record of Probeline ({type(error).__name__}: {error}). Take it from git again, or "
            "delete it to have its artifact made again."
        ) from error
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
        raise ProbelineError(f"{path} is no in-toto Statement with SLSA provenance.")
    if identity != _identity_in(data, identity):
        raise ProbelineError(f"{path} was edited after it was written: its invocationId does not fit.")
    return record


def _check_types(record: Record) -> None:
    """What all queries rely on: anybody can write a record, and give it an identity that fits."""
    cost, environment = record.cost, record.environment
    hardware = environment["hardware"]
    tables = [record.wildcards, record.params, record.code, record.config, cost, hardware]
    tables += [environment["packages"]]
    lists = [record.outputs, hardware["gpus"], record.definition["resolvedDependencies"]]
    texts = [record.rule, record.metadata["invocationId"], cost["backend"]]
    texts += [environment[key] for key in ("python", "platform")]
    numbers = [cost[key] for key in FIGURES if cost.get(key) is not None] + [cost["seconds"]]
    contents: list[Any] = []
    for subject in record.subjects:
        texts += [subject.name, subject.sha256, *subject.files.values()]
        tables += [subject.files, subject.games, *subject.games.values()]
        numbers.append(subject.bytes)
        contents += [content for members in subject.games.values() for content in members.values()]
    for given in record.definition["resolvedDependencies"]:
        texts += [given["name"], given["annotations"]["role"], *given["digest"].values()]
    for dependency in record.dependencies:
        texts.append(dependency.sha256)
        if dependency.record is not None:
            texts += (dependency.record, dependency.record_sha256 or "")
    source = record.other_dependency("source")
    if source is not None:
        # It goes to git as an argument.
        commit = source["digest"]["gitCommit"]
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise TypeError(f"{commit!r} is no commit")
        texts += source["annotations"].get("dirty", [])
    found = _foreign(tables, dict) | _foreign(lists, list) | _foreign(numbers, int, float)
    if not found:
        texts += [*record.outputs, *hardware["gpus"], *record.wildcards.values(), *record.code.values()]
        texts += environment["packages"].values()
        found = _foreign(texts, str) | _foreign(contents, str, type(None))
    if found:
        raise TypeError(f"{', '.join(sorted(found))} where it does not belong")
    for key in ("startedOn", "finishedOn"):
        moment = record.metadata[key]
        if not MOMENT.fullmatch(moment):
            raise ValueError(f"{key} is {moment!r}, no date and time")
        datetime.fromisoformat(moment)


def _foreign(values: Iterable[Any], *kinds: type) -> set[str]:
    """The names of the types of some values that are none of these."""
    return {kind.__name__ for kind in {*map(type, values)}.difference(kinds)}


def record_bytes(statement: Statement) -> bytes:
    """The file of a record, with its identity, which is set in `statement`, too.

    The identity is the digest of the same bytes with an empty identity: an edit of any of them that is not
    thorough is seen, be it a space or a key that is given twice.
    """
    metadata = statement["predicate"]["runDetails"]["metadata"]
    metadata["invocationId"] = ""
    metadata["invocationId"] = f"sha256:{sha256_bytes(_formatted(statement))}"
    return _formatted(statement)


def _formatted(statement: Statement) -> bytes:
    return orjson.dumps(statement, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _identity_in(data: bytes, identity: str) -> str | None:
    """The identity that the bytes of a record should have; None where they do not hold one, in its form."""
    form = b'"invocationId": "%b"'
    given = form % identity.encode()
    # Quotes inside a text are escaped, so this can be the key alone.
    return f"sha256:{sha256_bytes(data.replace(given, form % b''))}" if data.count(given) == 1 else None


class Recorder:
    """Takes down what a job reads when it starts, and writes its record when it is done.

    Args:
        job: the `snakemake` object of the rule's script.
        threads: of its numeric libraries.

    Attributes:
        elsewhere: where the body did not run here, `cost` and `environment` of where it did.
    """

    def __init__(self, job: Any, threads: int) -> None:
        self._job = job
        self._threads = threads
        self._roots = roots_of(job.config)
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self._inputs = [(role, Path(path)) for role, path in _named(job.input)]
        self._stats = [_stat(path) for _, path in self._inputs]
        self._code = RunningCode(job.params.spec["code"])
        self._code.check()
        self.elsewhere: dict[str, Any] = {}
        self._surroundings = [found for found in (lock_file(), repository()) if found is not None]

    def write(self) -> None:
        """Write the record, last of all.

        Raises:
            ProbelineError: an input or the code was changed while the job ran.
        """
        self._code.check()
        for (_, path), before in zip(self._inputs, self._stats, strict=True):
            if _stat(path) != before:
                raise ProbelineError(
                    f"{portable(path, self._roots)} was changed while {self._job.rule} was reading it. Run "
                    "the same command again."
                )
        cache = StatCache(STAT_CACHE)
        try:
            dependencies, upstream = self._dependencies(cache)
            subjects = self._subjects(cache, upstream)
        finally:
            cache.close()
        spec = self._job.params.spec
        statement: Statement = {
            "_type": STATEMENT,
            "subject": subjects,
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "rule": self._job.rule,
                        "wildcards": dict(self._job.wildcards.items()),
                        "params": portable_values(spec, self._roots),
                        "seed": spec.get("seed"),
                        "outputs": [path for _, path in _named(self._job.output)],
                        # Whole, as it was with all --configfile and --config: `audit reproduce` needs it.
                        "config": portable_values(self._job.config, self._roots),
                    },
                    "internalParameters": self.elsewhere.get(
                        "environment", environment() | {"hardware": hardware(self._threads)}
                    ),
                    "resolvedDependencies": [*dependencies, *_code(spec["code"]), *self._surroundings],
                },
                "runDetails": {
                    "builder": {
                        "id": "urn:probeline:local",
                        "version": {name: version(name) for name in ("probeline", "snakemake")},
                    },
                    "metadata": {
                        "invocationId": "",
                        "startedOn": moment_text(self._started),
                        "finishedOn": moment_text(datetime.now(UTC)),
                    },
                    "byproducts": [{"name": "cost", "annotations": self._cost()}],
                },
            },
        }
        write_bytes(Path(self._job.output.record), record_bytes(statement))

    def _dependencies(self, cache: StatCache) -> tuple[list[dict[str, Any]], list[Games]]:
        """The rule's inputs with their digests and records, and the games in them."""
        digests = digests_of([path for _, path in self._inputs], cache)
        records: dict[Path, Record] = {}
        described = []
        for (role, path), digest in zip(self._inputs, digests, strict=True):
            if digest is None:
                raise ProbelineError(f"{portable(path, self._roots)} cannot be read any more.")
            notes: dict[str, Any] = {"input": True, "role": role}
            found = None if path.is_absolute() else record_of(path)
            if found is None and role != "adapter" and path.as_posix().startswith(MADE):
                raise ProbelineError(
                    f"{path} has no record, so nobody can tell what it was made from. Delete {path.parent} "
                    "and run the same command again to have it made."
                )
            if found is not None:
                record = records.get(found) or records.setdefault(found, read_record(found))
                notes |= {"record": found.as_posix(), "recordSha256": record.sha256}
            described.append(
                {"name": portable(path, self._roots), "digest": {"sha256": digest}, "annotations": notes}
            )
        return described, [record.games for record in records.values()]

    def _subjects(self, cache: StatCache, upstream: list[Games]) -> list[dict[str, Any]]:
        outputs = [Path(path) for name, path in _named(self._job.output) if name != "record"]
        folders = {path for path in outputs if path.is_dir()}
        # Files inside a declared folder are named there.
        alone = [path for path in outputs if folders.isdisjoint(path.parents)]
        described = []
        for path in alone:
            files = files_of(path) if path.is_dir() else {path.name: path}
            digests = dict(zip(files, digests_of(list(files.values()), cache), strict=True))
            if None in digests.values():
                raise ProbelineError(f"A file of {path} vanished while its record was written.")
            found = {name: digest for name, digest in digests.items() if digest is not None}
            notes: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in files.values())}
            if path.is_dir():
                notes["files"] = found
            games = games_in(files, upstream)
            if games and (path.is_dir() or path.name in TABLES):
                notes["games"] = games
            digest = {"dirHash": directory_digest(found)} if path.is_dir() else {"sha256": found[path.name]}
            described.append({"name": path.as_posix(), "digest": digest, "annotations": notes})
        return described

    def _cost(self) -> dict[str, Any]:
        if self.elsewhere:
            return self.elsewhere["cost"]
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        notes = {
            "backend": "local",
            "seconds": round(time.perf_counter() - self._clock, 3),
            "processorSeconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
            "gpuSeconds": 0,
            "peakBytes": max(own.ru_maxrss, children.ru_maxrss) * 1024,
            "usd": 0,
        }
        figures = Path("benchmarks", *Path(self._job.log[0]).with_suffix(".json").parts[1:])
        if figures.is_file() and figures.stat().st_mtime >= self._started.timestamp():
            notes["figures"] = orjson.loads(figures.read_bytes())
        return notes


def _code(code: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rule's code and ours as dependencies; the digests by file are in the parameters."""
    own = Path(__file__).parent
    lineage = {file.name: sha256_bytes(file.read_bytes()) for file in sorted(own.glob("*.py"))}
    for role, closure in (("code", code), ("lineage", lineage)):
        yield {
            "name": role,
            "digest": {"sha256": canonical_digest(dict(closure))},
            "annotations": {"role": role, "files": len(closure)},
        }


def _named(values: Any) -> Iterator[tuple[str, str]]:
    """Role and path of each of a rule's named inputs or outputs, in their order."""
    for role, value in values.items():
        for path in [value] if isinstance(value, str) else value:
            yield role, path


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_size, info.st_mtime_ns, info.st_ino


def moment_text(moment: datetime) -> str:
    """A moment as records say it: the later one sorts later."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
