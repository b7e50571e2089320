"""When a run has ended: its records go to the volume, and no container stays warm for it."""

import sys

from probeline.compute.remote.connection import in_words, require_connection
from probeline.errors import ProbelineError


def main() -> int:
    """Send records and close the pools; Snakemake's own process never loads the client."""
    from probeline.compute.remote.copies import send_records
    from probeline.compute.remote.pools import close_pools
    from probeline.compute.remote.store import Store

    try:
        require_connection()
        with in_words():
            close_pools()
            send_records(Store())
    except ProbelineError as error:
        print(f"Containers on Modal may stay warm for a while: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
