# What the rules of logs read, and their params; no rules.

from functools import cache
from pathlib import Path

from probeline.config import check_files, check_groups, is_simulated
from probeline.digests import shard_of
from probeline.errors import ProbelineError
from probeline.experiments import NO_EXPERIMENT, experiment_of
from probeline.logs.formats import FILE_FORMATS, simulated_unit, unit_key
from probeline.logs.listing import (
    can_be_input,
    contents_of,
    file_contents,
    find_duplicates,
    game_files,
    list_files,
    list_games,
)
from probeline.logs.retracted import read_retractions, retracted_games, retracted_units
from probeline.logs.shards import identity
from probeline.logs.simulate_werewolf import simulated_game_key
from probeline.stat_cache import StatCache

# A fault that an input function raises can be lost: where the input exists, Snakemake takes it as it is,
# and old results would pass for those of a mistyped root. So these are looked at now.
in_words(check_files)(config, SOURCES.parent / "config/templates")


@cache
@in_words
def games_by_shard(corpus):
    """Shard → the games dealt to it, sorted keys."""
    corpus_config = config["corpora"][corpus]
    games = {shard: [] for shard in SHARDS}
    if is_simulated(corpus, corpus_config):
        keys = map(simulated_game_key, range(corpus_config["simulated_games"]))
    else:
        keys = list_games(root_of(corpus), corpus)
    for key in sorted(keys):
        if "{" in key or "}" in key:
            raise ProbelineError(
                "Snakemake takes braces in a path for wildcards. "
                f"Rename the folder {key} of corpora.{corpus}.root."
            )
        games[SHARDS[shard_of(key, len(SHARDS))]].append(key)
    return games


def root_of(corpus):
    return Path(config["corpora"][corpus]["root"]).expanduser()


RETRACTIONS = in_words(read_retractions)()


@cache
def cache_of_digests():
    return StatCache(Path(".probeline/stat-cache.sqlite"))


@cache
@in_words
def listed_files(corpus):
    """The files of a corpus, from the names alone."""
    files = list_files(root_of(corpus), corpus, config["corpora"][corpus]["format"])
    for file in files:
        if "{" in file or "}" in file:
            raise ProbelineError(
                "Snakemake takes braces in a path for wildcards. "
                f"Rename the file {file} of corpora.{corpus}.root."
            )
    return files


@cache
@in_words
def files_of(corpus):
    """The files of a corpus, and the digest of the content of each that can be read."""
    files = listed_files(corpus)
    return files, file_contents(root_of(corpus), files, cache_of_digests())


@cache
@in_words
def retracted_files_of(corpus):
    """Key of a Mafia game → why it is taken out; a file is one game there, and its key is its content's."""
    if not RETRACTIONS or config["corpora"][corpus]["format"] != "mafia":
        return {}
    contents = {}
    if not is_simulated(corpus, config["corpora"][corpus]):
        contents = {
            unit_key(content): content for content in files_of(corpus)[1].values()
        }
    return retracted_games(corpus, contents, RETRACTIONS)


@cache
def simulated_keys(corpus):
    """The keys of the games of a simulated Mafia corpus, by index: all are simulated to know one."""
    from probeline.logs.simulated_contents import simulated_mafia_contents

    count = config["corpora"][corpus]["simulated_games"]
    return [
        unit_key(content) for content in simulated_mafia_contents(config["seed"], count)
    ]


@cache
@in_words
def files_by_shard(corpus):
    """Shard → the files dealt to it, by content: names decide nothing, and copies fall together."""
    files, contents = files_of(corpus)
    dealt = {shard: [] for shard in SHARDS}
    for file in files:
        if file in contents and unit_key(contents[file]) in retracted_files_of(corpus):
            continue
        # What cannot be read has no content; the job says so.
        key = unit_key(contents[file]) if file in contents else file
        dealt[SHARDS[shard_of(key, len(SHARDS))]].append(file)
    return dealt


@cache
@in_words
def duplicates_of(corpus):
    """Game → the copy of it that is kept, over the whole corpus."""
    games = sorted(game for shard in games_by_shard(corpus).values() for game in shard)
    kept = [game for game in games if game not in retracted_of(corpus)]
    return find_duplicates(root_of(corpus), kept, cache_of_digests())


@cache
@in_words
def retracted_of(corpus):
    """Game → why it is taken out, over the whole corpus; also a copy that was added since then."""
    if not RETRACTIONS:
        return {}
    games = sorted(game for shard in games_by_shard(corpus).values() for game in shard)
    if not is_simulated(corpus, config["corpora"][corpus]):
        contents = contents_of(root_of(corpus), games, cache_of_digests())
        return retracted_games(corpus, contents, RETRACTIONS)
    # What is simulated has no content before it is made.
    reasons = retracted_games(corpus, {}, RETRACTIONS)
    return {game: reasons[game] for game in games if game in reasons}


def games_to_read(wildcards):
    """The games of a shard but for those that are taken out."""
    games = games_by_shard(wildcards.corpus)[wildcards.shard]
    return [game for game in games if game not in retracted_of(wildcards.corpus)]


def simulated_spec(wildcards):
    corpus = config["corpora"][wildcards.corpus]
    count, simulated_format = corpus["simulated_games"], corpus["format"]
    if simulated_format in FILE_FORMATS:
        shard = SHARDS.index(wildcards.shard)
        units = [simulated_unit(simulated_format, i) for i in range(count)]
        indices = [
            i for i, unit in enumerate(units) if shard_of(unit, len(SHARDS)) == shard
        ]
    else:
        dealt = set(games_to_read(wildcards))
        indices = [i for i in range(count) if simulated_game_key(i) in dealt]
    return {
        "format": simulated_format,
        "seed": config["seed"],
        "indices": indices,
        "code": code_of("simulate_logs"),
    }


def raw_logs_of(wildcards):
    """The logs of one shard, file by file; for a simulated corpus the manifest of the shard."""
    root = root_of(wildcards.corpus)
    if is_simulated(wildcards.corpus, config["corpora"][wildcards.corpus]):
        return f"{root}/{wildcards.shard}/manifest.json"
    games = games_to_read(wildcards)
    return [str(file) for game in games for file in game_files(root, game)]


def ingest_spec(wildcards):
    games, retracted = games_to_read(wildcards), retracted_of(wildcards.corpus)
    shard = SHARDS.index(wildcards.shard)
    simulated = is_simulated(wildcards.corpus, config["corpora"][wildcards.corpus])
    root = root_of(wildcards.corpus)
    duplicates = {} if simulated else duplicates_of(wildcards.corpus)
    return {
        "root": str(root / wildcards.shard if simulated else root),
        "shard": shard,
        "shards": len(SHARDS),
        "games": identity(games),
        "duplicates": {game: duplicates[game] for game in games if game in duplicates},
        # Those of this shard alone: a retraction touches no other.
        "retracted": {
            game: reason
            for game, reason in retracted.items()
            if shard_of(game, len(SHARDS)) == shard
        },
        "code": code_of("ingest_werewolf"),
    }


def log_files_of(wildcards):
    """The logs of one shard of a corpus of files; for a simulated one the manifest of the shard."""
    corpus, root = config["corpora"][wildcards.corpus], root_of(wildcards.corpus)
    if is_simulated(wildcards.corpus, corpus):
        return f"{root}/{wildcards.shard}/manifest.json"
    files = files_by_shard(wildcards.corpus)[wildcards.shard]
    return [str(root / file) for file in files if can_be_input(root / file)]


def retracted_here(wildcards):
    """Key → why it is taken out, for what would be in this shard; a retraction touches no other.

    Where a file holds several cases or dialogues, their shards are not known before they are read: such a
    retraction touches all shards of the corpora of its format, and no other corpus.
    """
    corpus = config["corpora"][wildcards.corpus]
    if corpus["format"] != "mafia":
        return retracted_units(corpus["format"], config["corpora"], RETRACTIONS)
    retracted = retracted_files_of(wildcards.corpus)
    shard_by_key = {key: shard_of(key, len(SHARDS)) for key in retracted}
    if retracted and is_simulated(wildcards.corpus, corpus):
        shard_by_key = {
            key: shard_of(simulated_unit("mafia", i), len(SHARDS))
            for i, key in enumerate(simulated_keys(wildcards.corpus))
        }
    shard = SHARDS.index(wildcards.shard)
    return {
        key: reason
        for key, reason in retracted.items()
        if shard_by_key.get(key) == shard
    }


def files_spec(wildcards, code):
    corpus, root = config["corpora"][wildcards.corpus], root_of(wildcards.corpus)
    simulated = is_simulated(wildcards.corpus, corpus)
    files = [] if simulated else files_by_shard(wildcards.corpus)[wildcards.shard]
    return {
        "root": str(root / wildcards.shard if simulated else root),
        "simulated": FILE_FORMATS[corpus["format"]] if simulated else None,
        "unreadable": [file for file in files if not can_be_input(root / file)],
        "retracted": retracted_here(wildcards),
        "code": code,
    }


def shards_of_corpus(wildcards):
    return expand(
        "data/processed/{corpus}/shards/{shard}/manifest.json",
        corpus=wildcards.corpus,
        shard=SHARDS,
    )


def experiments_of(corpus):
    if config["corpora"][corpus]["format"] in FILE_FORMATS:
        if not is_simulated(corpus, config["corpora"][corpus]):
            listed_files(corpus)  # A mistyped root is found out now.
        return {NO_EXPERIMENT}
    games = games_by_shard(corpus).values()
    return {experiment_of(game) for dealt in games for game in dealt}


in_words(check_groups)(
    config, {name: experiments_of(name) for name in config["corpora"]}
)
