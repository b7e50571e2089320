from collections import Counter

from probeline.digests import canonical_digest, shard_name, shard_of, split_of

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def test_formatting_and_key_order_do_not_change_a_canonical_digest() -> None:
    assert canonical_digest({"a": 1, "b": [1, 2]}) == canonical_digest({"b": [1, 2], "a": 1})
    assert canonical_digest({"a": 1}) != canonical_digest({"a": 2})


def test_every_game_has_one_shard_and_shards_are_even() -> None:
    counts = Counter(shard_of(f"experiment/game{i}", 8) for i in range(8000))
    assert set(counts) == set(range(8))
    assert min(counts.values()) > 850


def test_splits_follow_their_shares_and_the_seed() -> None:
    splits = [split_of(f"content{i}", SHARES, seed=0) for i in range(10_000)]
    counts = Counter(splits)
    assert abs(counts["train"] / 10_000 - 0.6) < 0.02
    assert abs(counts["test"] / 10_000 - 0.2) < 0.02
    assert splits != [split_of(f"content{i}", SHARES, seed=1) for i in range(10_000)]


def test_shard_names_sort_like_their_numbers() -> None:
    names = [shard_name(index, 16) for index in range(16)]
    assert names == sorted(names)
    assert names[3] == "shard-03-of-16"
