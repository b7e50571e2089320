"""What an artifact was made from; the only package that knows Snakemake and DVC."""
