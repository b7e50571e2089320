# What the rule of models read, and their params; no rules.

from pathlib import Path

from probeline.config import local_model_files
from probeline.digests import in_key_order


def model_files_of(wildcards):
    """The files of a model that lies in a folder of the user's: weights edited there are seen."""
    return in_words(local_model_files)(config["models"][wildcards.model])


def model_spec(wildcards):
    source = config["models"][wildcards.model]
    if "path" in source:
        source = {**source, "path": str(Path(source["path"]).expanduser())}
    # The depth is checked against the model, and makes no other model of it.
    return {
        "source": in_key_order(
            {key: value for key, value in source.items() if key not in ("depth", "gpu")}
        ),
        "code": code_of("fetch_model"),
    }
