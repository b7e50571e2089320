"""One digest that stands for every record: to be put in a signed tag, a report, a crate."""

from probeline.digests import sha256_bytes
from probeline.lineage.graph import Lineage


def root_digest(lineage: Lineage) -> str:
    """SHA-256 over the sorted lines `<sha256 of record>  <path of record>`.

    Args:
        lineage: of `read_lineage`; whoever has the same records gets the same digest.
    """
    lines = sorted(f"{record.sha256}  {record.path.as_posix()}\n" for record in lineage.records.values())
    return sha256_bytes("".join(lines).encode())
