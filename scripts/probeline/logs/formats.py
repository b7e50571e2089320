"""The formats of raw logs, and which files and tables hold them.

Imported while the workflow is parsed: the standard library only.
"""

FILE_FORMATS = {
    "mafia": ".json",
    "forecast": ".jsonl",
    "support": ".json",
}
"""Formats whose corpus is a tree of files, whatever they are called: format → how the names end.

A Werewolf corpus is a tree of folders instead, see `listing.list_games`.
"""
UNIT_TABLES = {
    "mafia": "games.parquet",
    "forecast": "cases.parquet",
    "support": "dialogues.parquet",
}
"""The table with a row for each game, case or dialogue: its columns `game` and `content` say which it is."""
GAME_FORMATS = ("werewolf", "mafia")
"""Formats whose events concepts are declared on."""
DATASET_FORMATS = {"sft": "mafia", "preferences": "mafia", "forecasts": "forecast", "prompts": "support"}
"""Kind of a dataset for fine-tuning → format of the logs that it is made of."""
IGNORED_FILES = ("schema.json", "manifest.json")
"""Files that lie beside the logs and hold none: the schema of support dialogues, our own manifests."""
KEY_DIGITS = 16


def unit_key(content: str) -> str:
    """The key of a game, case or dialogue, from the digest of its canonical content alone."""
    return content[:KEY_DIGITS]


def simulated_unit(format_name: str, index: int) -> str:
    """What decides about the shard of a simulated unit, whose content nobody knows before it is made."""
    return f"simulated:{format_name}:{index}"
