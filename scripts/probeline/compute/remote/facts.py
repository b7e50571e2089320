"""What a record says of a job that ran on Modal."""

from typing import Any

from probeline.compute.prices import gpu_text, parse_gpu, read_prices


def facts_of(run: dict[str, Any]) -> dict[str, Any]:
    """Cost and environment of a job, for its record.

    Paid is what the container that ended the job took for it, with its start if the job was its first; not
    attempts that were lost, nor the time for which it was kept warm.

    Args:
        run: what the container measured.
    """
    prices = read_prices()
    paid = run["seconds"] + run["startSeconds"]
    per_second = prices.per_second(run["gpu"], run["cpu"], run["memory"])
    _, gpus = parse_gpu(run["gpu"]) or ("", 0)
    cost = {
        "backend": "modal",
        "seconds": run["seconds"],
        "startSeconds": run["startSeconds"],
        "processorSeconds": run["processorSeconds"],
        "gpuSeconds": round(paid * gpus, 3),
        "peakBytes": run["peakBytes"],
        "usd": round(paid * per_second, 6),
        "priceDate": str(prices.date),
        "gpu": gpu_text(run["gpu"]),
        "cpu": run["cpu"],
        "memory": run["memory"],
        "callId": run["call"],
    }
    if run["figures"] is not None:
        cost["figures"] = run["figures"]
    if run.get("reused"):
        cost["reused"] = True  # it lay on the volume: this run has paid nothing for it
    return {"cost": cost, "environment": run["environment"]}
