"""One game's sequences as rows of tokens without padding, in which shared beginnings stand once.

Causal attention makes a token's residual stream a function of the tokens before it. Sequences that begin
alike therefore share those tokens, and all other tokens follow each other in one row, whatever sequence they
belong to: matrix products waste nothing on padding. Which tokens a token may look at is kept beside the row.

An opening is the beginning of a sequence that was run before, alone: its keys and values are at hand, and its
tokens are not in the row. So games may share openings, and still depend on nothing but themselves.

How a game is packed follows from its own sequences, so that its activations depend on it alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Tokens = tuple[int, ...]

# Sizes are rounded up to multiples of this. The libraries below torch make a kernel for each new size, which
# takes time, and keep a thousand of them, which took two gigabytes.
GRAIN = 16

# Blocks of queries run together where the longest has at most this many times the keys of the shortest, or
# this many more.
LONGEST_TO_SHORTEST = 2
FEW_KEYS = 64


@dataclass(frozen=True)
class QueryGroup:
    """Blocks of queries that run together, padded to one shape.

    Attributes:
        queries: int64 [blocks, queries], places in the row; filler repeats a block's first query.
        positions: int64 [blocks, queries], the position of each query in its sequence.
        keys: int64 [blocks, keys], places in the table of keys (the openings, then the row) of a sequence's
            tokens up to the block's end, so that column j is position j; filler repeats the first, and lies
            behind every query.
        visible: how many of the first columns every query of the group may look at.
    """

    queries: np.ndarray
    positions: np.ndarray
    keys: np.ndarray
    visible: int


@dataclass(frozen=True)
class Pack:
    """A row of tokens, with some filler at its end that nothing looks at.

    Attributes:
        tokens: how many they are, without the filler.
        input_ids: int64 [row].
        position_ids: int64 [row], each token's position in its sequence.
        openings: the openings of its sequences, in the order in which they stand before the row.
        paths: sequence → int64 [length], the places of its tokens in the row; negative in an opening.
        groups: all queries, each in one block.
        places: int64 [row], where the outputs of the groups, one after the other, hold each token's.
    """

    tokens: int
    input_ids: np.ndarray
    position_ids: np.ndarray
    openings: tuple[Tokens, ...]
    paths: dict[Tokens, np.ndarray]
    groups: tuple[QueryGroup, ...]
    places: np.ndarray


@dataclass(frozen=True)
class Limits:
    """How large a device takes its work.

    Attributes:
        row: most tokens in one row; a longer sequence is a row of its own.
        block: most queries in one block.
        pairs: most products of queries and keys of the blocks that run together.
    """

    row: int
    block: int
    pairs: int


def packs(sequences: Mapping[Tokens, int], limits: Limits) -> Iterator[Pack]:
    """Pack the sequences of a game.

    Args:
        sequences: sequence → length of its opening (0: it has none), in any order, which changes nothing.
        limits: of the device.
    """
    # In lexicographic order a sequence shares most with the one before it.
    row: dict[Tokens, int] = {}
    before: Tokens = ()
    tokens = 0
    for sequence in sorted(sequences):
        opening = sequences[sequence]
        new = len(sequence) - (_inherited(before, row[before], sequence, opening) if row else opening)
        if row and tokens + new > limits.row:
            yield _pack(row, limits)
            row, new, tokens = {}, len(sequence) - opening, 0
        row[sequence] = opening
        tokens += new
        before = sequence
    if row:
        yield _pack(row, limits)


def _inherited(before: Tokens, opening_before: int, sequence: Tokens, opening: int) -> int:
    """How many of a sequence's tokens are at hand: those of its opening, or more from the one before."""
    shared = _shared(before, sequence)
    # What lies in an opening is not measured, so a longer opening than one's own is of no use.
    return shared if shared > opening and opening_before <= opening else opening


def _shared(first: Tokens, second: Tokens) -> int:
    """Length of the common beginning."""
    shortest = min(len(first), len(second))
    return next((place for place in range(shortest) if first[place] != second[place]), shortest)


def _pack(sequences: dict[Tokens, int], limits: Limits) -> Pack:
    known = {}
    before: Tokens = ()
    for sequence, opening in sequences.items():
        known[sequence] = _inherited(before, sequences.get(before, 0), sequence, opening)
        before = sequence
    # Those of sequences that inherit more are not needed.
    openings = tuple(
        {
            sequence[:opening]: None
            for sequence, opening in sequences.items()
            if 0 < opening == known[sequence]
        }
    )
    begins = dict(zip(openings, np.cumsum([0, *map(len, openings)]).tolist(), strict=False))
    ahead = sum(map(len, openings))
    input_ids: list[int] = []
    position_ids: list[int] = []
    paths: dict[Tokens, np.ndarray] = {}  # in the table of keys
    blocks: list[tuple[int, np.ndarray]] = []  # position of its first query, and the way to its last
    for sequence, opening in sequences.items():
        start = known[sequence]
        if start > opening:
            way = paths[before][:start]
        else:
            begin = begins.get(sequence[:opening], 0)
            way = np.arange(begin, begin + opening)
        new = np.arange(len(input_ids), len(input_ids) + len(sequence) - start) + ahead
        path = np.concatenate([way, new])
        input_ids += sequence[start:]
        position_ids += range(start, len(sequence))
        paths[sequence] = path
        blocks += [(first, path[: first + limits.block]) for first in range(start, len(path), limits.block)]
        before = sequence
    groups = []
    filler = -len(input_ids) % GRAIN
    places = np.zeros(len(input_ids) + filler, dtype=np.int64)
    outputs = 0
    for members in _grouped(blocks, limits.pairs):
        group = _group(members, ahead)
        for line, (start, path) in enumerate(members):
            first = outputs + line * group.queries.shape[1]
            places[path[start:] - ahead] = np.arange(first, first + len(path) - start)
        outputs += group.queries.size
        groups.append(group)
    in_row = {sequence: path - ahead for sequence, path in paths.items()}
    return Pack(
        len(input_ids),
        np.array(input_ids + input_ids[:1] * filler),
        np.array(position_ids + [0] * filler),
        openings,
        in_row,
        tuple(groups),
        places,
    )


def _grouped(blocks: list[tuple[int, np.ndarray]], most_pairs: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Blocks of about as many keys together, a limited number of products each."""
    group: list[tuple[int, np.ndarray]] = []
    most_queries = 0
    for start, path in sorted(blocks, key=lambda block: len(block[1])):
        keys, queries = len(path), max(most_queries, len(path) - start)
        if group and (
            keys > max(len(group[0][1]) * LONGEST_TO_SHORTEST, len(group[0][1]) + FEW_KEYS)
            or (len(group) + 1) * keys * queries > most_pairs
        ):
            yield group
            group, queries = [], keys - start
        group.append((start, path))
        most_queries = queries
    if group:
        yield group


def _rounded(size: int) -> int:
    return size + -size % GRAIN


def _group(members: list[tuple[int, np.ndarray]], ahead: int) -> QueryGroup:
    most_queries = _rounded(max(len(path) - start for start, path in members))
    most_keys = _rounded(max(len(path) for _, path in members))
    queries = np.empty((len(members), most_queries), dtype=np.int64)
    positions = np.empty_like(queries)
    keys = np.empty((len(members), most_keys), dtype=np.int64)
    for line, (start, path) in enumerate(members):
        count = len(path) - start
        queries[line, :count], queries[line, count:] = path[start:] - ahead, path[start] - ahead
        positions[line, :count], positions[line, count:] = range(start, len(path)), start
        keys[line, : len(path)], keys[line, len(path) :] = path, path[0]
    return QueryGroup(queries, positions, keys, min(start for start, _ in members) + 1)
