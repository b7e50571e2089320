"""What trainings share with what is read while the workflow is planned, and after them."""

SUMMARY = "training_summary.json"
FOUR_BITS = (
    "quantization: 4bit needs a GPU and bitsandbytes (pip install -e '.[gpu]' -c constraints.txt). Set it to "
    "null, or leave the training to Modal (compute: modal)."
)
