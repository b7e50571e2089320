"""Bodies of rules on Modal: what decides about a result's bits lies elsewhere, so this is no rule's code."""
