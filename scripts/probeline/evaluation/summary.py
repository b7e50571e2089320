"""What evaluations of adapters and grids say at the end of a run, from their manifests alone."""

from pathlib import Path

from probeline.files import MANIFEST, read_json

WIDTH = 40
SIDES = ("before", "after")


def evaluation_summary(directory: Path) -> str:
    """A few aligned lines on one evaluation or comparison.

    Args:
        directory: made by `evaluate_adapter` or `compare_adapters`.
    """
    facts = read_json(directory / MANIFEST)
    systems = facts["systems"]
    lines = [
        f"{facts['title']}: model {facts['model']}, held-out data of {', '.join(facts['datasets'])}",
        f"    {'':<{WIDTH}}" + "".join(f"{_cut(name):>16}" for name in systems),
    ]
    for name, values in facts["headline"].items():
        numbers = ("-" if values[one] is None else f"{values[one]:.3f}" for one in systems)
        told = facts["verdicts"].get(name)
        row = "".join(f"{number:>16}" for number in numbers)
        lines.append(f"    {name.replace('_', ' '):<{WIDTH}}{row}" + (f"  {told}" if told else ""))
    if facts["simulated"]:
        lines.append("  The data are simulated.")
    lines.append(f"  {directory / 'REPORT.md'}")
    return "\n".join(lines)


def grid_summary(directory: Path) -> str:
    """A line on each point of a grid, the best one first.

    Args:
        directory: made by `compare_grid`.
    """
    facts = read_json(directory / MANIFEST)
    points = facts["points"]
    lines = [f"{facts['recipe']}: grid of {len(points)}, held-out {facts['figure'].replace('_', ' ')}"]
    for row in points:
        settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        values = ["-" if row[when]["value"] is None else f"{row[when]['value']:.3f}" for when in SIDES]
        lines.append(f"    {settings:<{WIDTH}}{' to '.join(values)}  {row['verdict']}  ({row['point']})")
    lines.append(f"  {directory / 'REPORT.md'}")
    return "\n".join(lines)


def _cut(name: str) -> str:
    return name if len(name) <= 15 else f"{name[:14]}…"
