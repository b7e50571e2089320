"""The columns of every table that one stage hands to the next, checked when they are written.

Each table is declared once, as `(column, type, meaning)`; a column whose type ends in `?` may be null.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_TYPES = {
    "statement": "a public statement made in turn",
    "reply": "a public answer to a player who called on the speaker",
    "callout": "calling on another player, with a question",
    "day_vote": "one player's vote to eliminate another by day",
    "night_vote": "one werewolf's, or mafia member's, vote for the victim of the night",
    "seer_check": "the seer's, or detective's, look at a player's role",
    "protection": "the doctor's choice of whom to guard by night",
    "night_kill": "the victim of the night (no actor)",
    "day_elimination": "who was voted out (no actor)",
}

LOGGED_SCORES = [
    ("logged_score", "double?", "aggregate_score of the probe that ran in the game"),
    ("logged_prompt_score", "double?", "its prompt_score"),
    ("logged_cot_score", "double?", "its cot_score"),
    ("logged_action_score", "double?", "its action_score"),
    ("logged_generation_score", "double?", "its generation_score"),
]
"""What the probe that ran in a game said of an act; larger was shown to the players as more deceptive."""

SPLITS = ("train", "validation", "test")

EVENTS = [
    (
        "game",
        "string",
        "key of the game: its folder relative to the corpus root, e.g. `baseline/game7`; where a corpus is "
        "made of files, the first 16 digits of its content",
    ),
    ("event", "int32", "position in the game's timeline, from 0, without gaps"),
    (
        "turn",
        "int32",
        "turn of the game, from 1; in a Mafia log days are counted, each with the night before it",
    ),
    ("type", "string", "one of EVENT_TYPES"),
    ("actor", "string?", "who acts; null for night_kill and day_elimination"),
    (
        "actor_role",
        "string?",
        "role of the actor, lower case: werewolf, villager, seer, …; in a Mafia log only of the player whose "
        "log it is, the others' are not known",
    ),
    ("actor_team", "string?", "`werewolves`, `mafia` or `village`"),
    ("target", "string?", "whom the act is about: vote target, caller (reply), called player, victim"),
    ("target_role", "string?", "role of the target"),
    ("target_team", "string?", "team of the target"),
    ("same_team", "bool?", "actor and target are of one team; null without a target"),
    (
        "text",
        "string?",
        "the actor's words: statement, reply or question; the named player of a vote or check",
    ),
    ("question", "string?", "the question that a reply answers"),
    ("reasoning", "string?", "the actor's private reasoning; null when absent or literally N/A"),
    ("valid", "bool", "false for a vote that the game did not accept (dead, unknown or own name)"),
    ("source", "string", "`log` when taken from llm_log.txt, else `stats`"),
    ("system_prompt", "string?", "the true system prompt of the act, from llm_log.txt"),
    ("user_prompt", "string?", "the true user prompt of the act, from llm_log.txt"),
    ("response", "string?", "the raw response that held the act, from llm_log.txt"),
    ("action_start", "int32?", "first character in `response` of the value of the key `action`"),
    ("action_end", "int32?", "one past its last character"),
    ("reasoning_start", "int32?", "first character in `response` of the value of the key `reasoning`"),
    ("reasoning_end", "int32?", "one past its last character"),
    *LOGGED_SCORES,
]

GAMES = [
    ("game", "string", "key of the game: its folder relative to the corpus root"),
    ("content", "string", "SHA-256 of the game's canonical content: the same for renamed copies"),
    ("experiment", "string", "the path between the corpus root and the game's folder"),
    ("game_id", "int64?", "the number that the log itself gives"),
    ("winner", "string", "as logged: Werewolves, Village, Aborted, …"),
    ("aborted", "bool", "the game was not played to its end"),
    ("turns", "int32", "number of turns"),
    ("has_log", "bool", "an llm_log.txt was read with it"),
    (
        "players",
        "list<struct<name: string, role: string, team: string, survived: bool, role_reveal_score: double>>",
        "in logged order; role_reveal_score (may be null) is what the probe that ran in the game said of "
        "the prompt that told the player's role",
    ),
    ("backend", "string", "backend_type as logged"),
    ("probe_enabled", "bool", "a probe ran in the game"),
    ("tallies", "int32", "day eliminations with a vote tally"),
    ("tallies_matched", "int32", "tallies that the rebuilt votes reproduce exactly"),
    ("votes_from", "string", "`log`, `stats` (rebuilt from player_activations) or `none`"),
]

COUNTS = ("counts", "list<struct<name: string, count: int32>>", "what quality.json counts of it")

CASES = [
    ("game", "string", "key of the forecasting case: the first 16 digits of its content"),
    ("content", "string", "SHA-256 of its canonical content: the same for copies"),
    ("case_id", "string", "the name that the log itself gives"),
    ("form", "string", "`levels`, or `chain` (the old flat form)"),
    ("event", "string", "the seed event"),
    ("event_key", "string", "the same for seed events of the same words"),
    ("date", "string?", "date of the seed event, ISO 8601"),
    ("context", "string?", "what is told of the seed event"),
    ("domain", "string?", "as logged: Technology, Politics, …"),
    ("knowledge_cutoff", "string?", "date after which the log says nothing was known"),
    ("levels", "int32", "number of levels"),
    COUNTS,
]

LEVELS = [
    ("game", "string", "key of the case"),
    ("depth", "int32", "depth as logged, from 1, ascending within a case"),
    ("parent_event", "string?", "as logged; may differ from the answer of the level before"),
    ("path", "list<string>", "as logged; its last item usually gives the answer away"),
    ("timeframe_months", "double?", "months in which it happens"),
    ("date", "string?", "date of what happened, ISO 8601"),
    ("research_summary", "string?", "as logged; usually gives the answer away"),
    ("candidates", "list<struct<event: string, label: bool>>", "in logged order, the true one usually first"),
    ("answer", "int32?", "position of the true candidate; null unless there is exactly one"),
    ("findings", "list<string>", "what is wrong with it, in the names that quality.json counts"),
]

DIALOGUES = [
    ("game", "string", "key of the dialogue: the first 16 digits of its content"),
    ("content", "string", "SHA-256 of its canonical content: the same for copies"),
    ("id", "string", "`<split>/<dialogue_id>`, or the dialogue_id alone where no folder names a split"),
    ("folder", "string?", "train, dev or test, which its file lay in: its split; null elsewhere"),
    ("dialogue_id", "string", "as logged; repeats across splits"),
    ("services", "list<string>", "as logged"),
    ("turns", "int32", "number of turns"),
    COUNTS,
]

ROWS = [
    ("game", "string", "key of the dialogue"),
    ("turn_index", "int32", "position of the system's turn in the dialogue, from 0"),
    ("prompt", "list<struct<role: string, content: string>>", "the turns before it, roles user, assistant"),
    ("ground_truth", "string", "what the system said in that turn"),
    ("task_description", "string", "what the dialogue is about, from its services"),
]

ACTIONS = [
    ("game", "string", "key of the game: a Mafia log, the game as one player saw it"),
    ("content", "string", "SHA-256 of its canonical content"),
    (
        "played",
        "string",
        "SHA-256 of the texts of its observations and actions, in order: the same for logs that differ in "
        "times, names or results alone; examples are parted by it",
    ),
    ("turn", "int32", "as logged, from 0"),
    ("phase", "string", "discussion, night, vote, or unknown"),
    ("player", "string", "whose log it is: `Player 3`"),
    ("role", "string", "mafia, detective, doctor, villager, or unknown"),
    ("team", "string", "mafia, village, or unknown"),
    ("outcome", "string", "the true one for this player: win, loss, timeout or error"),
    ("rules", "string", "what the game told the player first: role, team, players, rules"),
    ("alive", "string", "numbers of the players who have not been said to be out: `0 2 3`"),
    ("seen", "string", "what is new since the observation before, without the rules and the player's echo"),
    ("action", "string", "what the player sent, as logged"),
    ("targets", "string?", "numbers of the last valid list: `0 2 3`; null in a discussion"),
    ("target", "int32?", "the number that the action names and nothing else"),
    ("dropped", "string?", "why it is kept from training, a key of logs.mafia.FAULTS; null for a legal act"),
]

DATASET_GAMES = [
    ("game", "string", "key of a game that a dataset for fine-tuning is made of"),
    ("content", "string", "SHA-256 of its canonical content"),
    ("split", "string", "train, validation or test"),
]

SEQUENCES = [
    ("sequence", "string", "id of the sequence: `<game>#<view>`"),
    ("game", "string", "the only game that it shows"),
    ("messages", "list<struct<role: string, content: string>>", "the chat, roles system, user, assistant"),
]

SAMPLES = [
    ("sample", "string", "id of the sample: `<game>#<event>`"),
    ("sequence", "string", "the sequence that shows it"),
    ("game", "string", "key of the game"),
    ("content", "string", "SHA-256 of the game's canonical content"),
    ("experiment", "string", "experiment of the game"),
    ("split", "string", "train, validation or test"),
    ("label", "int8", "1 or 0"),
    ("type", "string", "type of the event"),
    ("turn", "int32", "turn of the game"),
    ("event", "int32", "position in the game's timeline"),
    ("actor", "string", "who acts"),
    ("actor_role", "string", "role of the actor"),
    ("target", "string?", "whom the act is about"),
    ("same_team", "bool?", "actor and target are of one team"),
    ("message", "int32", "index of the message that holds the masked text"),
    ("start", "int32", "first masked character in that message's content"),
    ("end", "int32", "one past the last masked character"),
    ("text", "string", "the masked text itself"),
    *LOGGED_SCORES,
    ("logged_role_reveal_score", "double?", "that probe's score when the actor's role was told"),
]

REVEALS = [
    ("sequence", "string", "the sequence that tells it: a player's view of the game"),
    ("game", "string", "key of the game"),
    ("actor", "string", "the player whom the sentence tells its role, or who its allies are"),
    ("message", "int32", "index of the message that holds the sentence"),
    ("start", "int32", "its first character in that message's content"),
    ("end", "int32", "one past its last character"),
    ("text", "string", "the sentence itself"),
]

SCORES = [
    ("sample", "string", "id of the sample"),
    ("game", "string", "key of the game"),
    ("split", "string", "train, validation or test"),
    ("label", "int8", "1 or 0"),
    ("score", "double", "the probe's score: larger means label 1"),
    ("probability", "double", "calibrated probability of label 1, from validation"),
]

TOKENS = [
    ("game", "string", "key of the game"),
    ("sample", "string", "id of the sample"),
    ("position", "int32", "index of the token in the sample's sequence"),
    ("text", "string", "the part of the masked text in this token; empty where it ends no character"),
    (
        "score",
        "double",
        "the probe's score of this token alone: of a linear probe, their mean is the sample's",
    ),
]

TRANSCRIPTS = [
    ("game", "string", "key of the game"),
    ("sample", "string", "id of the sample"),
    ("event", "int32", "position in the game's timeline"),
    ("turn", "int32", "turn of the game"),
    ("type", "string", "type of the event"),
    ("actor", "string", "who acts"),
    ("actor_role", "string", "role of the actor"),
    ("target", "string?", "whom the act is about"),
    ("label", "int8", "1 or 0"),
    ("score", "double", "the probe's score, as it was tested"),
    ("error", "string?", "false alarm or miss; null where the probe is right"),
    (
        "place",
        "int32?",
        "of the error among all of the probe's: the worst false alarm, the worst miss, the next",
    ),
    (
        "before",
        "list<struct<role: string, content: string>>",
        "the last lines that the model read before the act, without the system message",
    ),
]
"""Every sample of the games whose tokens are scored."""

SHIFT = [
    ("sample", "string", "id of the sample"),
    ("game", "string", "key of the game"),
    ("content", "string", "SHA-256 of the game's canonical content"),
    ("split", "string", "train, validation or test"),
    ("label", "int8", "1 or 0"),
    ("base", "double", "score of the probe, the model without the adapter"),
    ("adapted", "double", "score of the same probe, with it"),
    ("retrained", "double", "score of a probe that was fitted with it"),
]

TRANSFER = [
    ("train", "string", "what the probe was trained on: a concept, or a group of experiments"),
    ("test", "string", "what it was tested on"),
    ("num_games", "int32", "test games"),
    ("num_positive", "int32", "test samples of label 1"),
    ("num_negative", "int32", "test samples of label 0"),
    ("overlap", "bool", "of one concept, and they share an experiment: no transfer, as on the diagonal"),
    ("seen_in_training", "int32", "test samples left out, because their game is in the source's training"),
    ("auroc", "double?", "of the probe; null, as all that follows, where there is not enough data"),
    ("auroc_low", "double?", "lower end of the 95 % interval over games"),
    ("auroc_high", "double?", "its upper end"),
    ("text", "double?", "AUROC of the text classifier, trained as the probe, that is better on validation"),
    ("text_low", "double?", "lower end of its interval"),
    ("text_high", "double?", "its upper end"),
    ("text_baseline", "string?", "which text it read: text_masked or text_input"),
    ("difference", "double?", "AUROC of the probe minus that of the text"),
    ("difference_low", "double?", "lower end of its interval"),
    ("difference_high", "double?", "its upper end"),
    ("auprc", "double?", "area under the precision-recall curve"),
    ("f1", "double?", "at the source's threshold"),
    ("accuracy", "double?", "at the source's threshold"),
    ("brier", "double?", "of the probabilities calibrated on the source"),
    ("ece", "double?", "of the same"),
    ("small", "bool", "fewer than 5 test games, or test samples of a class: no ground for a verdict"),
    ("reason", "string?", "why there is no number"),
]

SUSPECTS = [
    ("game", "string", "key of the game"),
    ("split", "string", "train, validation or test"),
    ("actor", "string", "the player, or the first of the pair"),
    ("target", "string?", "whom the acts are about, where pairs are ranked"),
    ("role", "string", "role of the actor"),
    ("label", "int8?", "1 or 0; null where it varies within a player"),
    ("samples", "int32", "number of the player's acts in the game"),
    ("mean_score", "double", "mean score of all of them"),
    ("rank", "int32", "place by mean_score in the game, 1 for the highest; equal scores share a place"),
    ("act", "int32", "number of this act among them, from 1"),
    ("event", "int32", "its position in the game's timeline"),
    ("turn", "int32", "turn of the game"),
    ("score", "double", "score of this act"),
    ("running_score", "double", "mean score up to this act"),
    ("reveal_score", "double?", "score of what told the actor its role; null where the input does not"),
]

ACTIVATION_INDEX = [
    ("sample", "string", "id of the sample: row i of the tensors is row i of this table"),
    ("game", "string", "key of the game"),
    ("tokens", "int32", "number of masked tokens that the mean is over"),
    ("position", "int32", "index of the last masked token in its sequence"),
]

REVEAL_INDEX = [
    ("game", "string", "key of the game: row i of the tensor is row i of this table"),
    ("actor", "string", "the player; one row for each sentence that tells its role"),
    ("tokens", "int32", "number of tokens that the mean is over"),
]


SWEEP = [
    ("method", "string", "how the direction was found"),
    ("layer", "int32", "0: the embeddings; L: the residual stream after L blocks"),
    ("auroc", "double", "over pairs of the same held-out fold of training and validation games"),
    ("low", "double?", "lower end of the 95 % interval, from a bootstrap over games"),
    ("high", "double?", "upper end"),
    ("folds", "int32", "number of folds that held both classes"),
]


def arrow_schema(columns: list[tuple[str, str, str]]) -> "pa.Schema":
    """The pyarrow schema of a declared table."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(name, _arrow_type(kind.rstrip("?")), nullable=kind.endswith("?"))
            for name, kind, _ in columns
        ]
    )


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    if kind == "list<string>":
        return pa.list_(pa.string())
    if kind.startswith("list<struct<"):
        fields = [part.split(": ") for part in kind[len("list<struct<") : -2].split(", ")]
        return pa.list_(pa.struct([(name, _arrow_type(inner)) for name, inner in fields]))
    return {
        "string": pa.string(),
        "bool": pa.bool_(),
        "int8": pa.int8(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
    }[kind]


def make_table(rows: list[dict[str, Any]], columns: list[tuple[str, str, str]]) -> "pa.Table":
    """A table of exactly the declared columns.

    Args:
        rows: one dict per row, with every declared column and no other.
        columns: one of the declarations above.

    Raises:
        ValueError: a row has a missing, additional or mistyped column, or a null where none may be.
    """
    import pyarrow as pa

    declared = {name for name, _, _ in columns}
    for row in rows:
        if row.keys() != declared:
            raise ValueError(f"columns differ from the schema: {sorted(row.keys() ^ declared)}")
    table = pa.Table.from_pylist(rows, schema=arrow_schema(columns))
    table.validate(full=True)
    for field in table.schema:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"column {field.name} holds {table[field.name].null_count} nulls")
    return table
