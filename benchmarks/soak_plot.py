"""How the memory of a soak looks. Measures nothing."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.soak_watch import Role, Watch, lives

_ROLES: tuple[Role, ...] = ("API", "engine", "decode worker")


def draw(watch: Watch, path: Path) -> None:
    """Resident memory against time, a line for each process: where it ends, the process was killed or dismissed."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, role in zip(figure.subplots(len(_ROLES), 1, sharex=True), _ROLES, strict=True):
        for number, life in enumerate(lives(watch.samples, role)):
            times = [sample.at_s / 60 for sample in life]
            rss_mb = [sample.rss_mb for sample in life]
            axes.plot(times, rss_mb, ".-", color=f"C{number % 10}", linewidth=1, markersize=2)
        for at_s in {"engine": watch.engine_kills_s, "decode worker": watch.worker_kills_s}.get(role, []):
            axes.axvline(at_s / 60, color="black", linestyle=":", linewidth=0.5)
        axes.set(title=f"{role}s" if role == "decode worker" else role, ylabel="resident MB")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.set_xlabel("minutes; dotted: kills")
    figure.savefig(path, dpi=120)
