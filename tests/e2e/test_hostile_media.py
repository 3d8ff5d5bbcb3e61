"""Hostile files through real workers: every one is answered in its time, and nothing of it stays.

`make test-slow` sends 10,000 mutated files; a run without `-m slow` a few hundred of the same.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from asr_service.api.app import create_app
from asr_service.audio.listener import Listener
from asr_service.audio.pool import AudioLimits, DecodePool
from asr_service.domain import AudioSummary, Priority, Window, WindowOptions, WindowResult
from asr_service.errors import InvalidInput
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings, decoder_environment
from tests.e2e import hostile
from tests.e2e.test_decode_pool import ENV, pool_of, proc, transcribable, workers
from tests.fakes import FakeEngine, nothing_left_behind, open_files, result

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

LIMITS = AudioLimits(max_audio_s=120)
LONGEST_ANSWER_S = 20.0
"""The CPU budget of a file that yields nothing is 10 s; two workers share the test's processors with the test."""


class WillingEngine(FakeEngine):
    """Answers every window at once and keeps nothing."""

    async def transcribe(
        self,
        request_id: str,
        pcm: bytes,
        options: WindowOptions,
        *,
        on_started: Callable[[str | None], None] | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> WindowResult:
        return result("heard")


@dataclass
class Tally:
    """What became of many files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)
    restarts: int = 0
    own_bytes: list[int] = field(default_factory=list)
    """Memory of this process, taken now and then."""
    worker_bytes: list[int] = field(default_factory=list)

    def sample_memory(self) -> None:
        self.own_bytes.append(psutil.Process().memory_info().rss)
        self.worker_bytes.append(max(worker.memory_info().rss for worker in workers()))

    def report(self) -> str:
        half = len(self.own_bytes) // 2
        own, worker = (
            f"{statistics.mean(taken[:half]) / 1e6:.0f} -> {statistics.mean(taken[half:]) / 1e6:.0f} MB"
            for taken in (self.own_bytes, self.worker_bytes)
        )
        times = sorted(self.times_s)
        return (
            f"{len(times)} files: {dict(self.outcomes.most_common())}; {self.restarts} workers lost; "
            f"{times[len(times) // 2] * 1000:.0f} ms in the middle, {times[-1]:.1f} s at most; "
            f"memory by halves: service {own}, largest worker {worker}"
        )


async def in_parallel(count: int, width: int, work: Callable[[int], Awaitable[None]]) -> None:
    """`work` on all numbers below `count`, `width` at a time."""
    left = iter(range(count))

    async def lane() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(lane())


@contextlib.asynccontextmanager
async def service_on(decoder: DecodePool) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP API on real workers and an engine that says the same to everything."""
    app = create_app(Settings(max_upload_mb=64), WillingEngine(), decoder, Metrics(), listener=Listener({}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://asr", timeout=120) as client,
    ):
        yield client


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that nobody should call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


FEW_AND_MANY = [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("count", FEW_AND_MANY)
async def test_mutated_files_cost_nobody_anything(count: int) -> None:
    mutants, tally, speech = hostile.Mutants(), Tally(), hostile.seeds()["wav"]
    async with nothing_left_behind(), pool_of(2, LIMITS) as (pool, restarts):

        async def judge(number: int) -> None:
            started = time.perf_counter()
            try:
                outcome = await transcribable(pool, mutants.make(number))
            except InvalidInput as error:
                tally.outcomes[error.code] += 1
            else:
                tally.outcomes["warned" if outcome.summary and outcome.summary.warnings else "ok"] += 1
            tally.times_s.append(time.perf_counter() - started)
            if number % (count // 40) == 0 and number > count // 8:
                tally.sample_memory()

        await in_parallel(count, 4, judge)
        tally.restarts = len(restarts)
        assert len((await transcribable(pool, speech)).windows) == 1
    print(tally.report())  # noqa: T201
    assert tally.outcomes.total() == count
    assert min(tally.outcomes[each] for each in ("ok", "warned", "unreadable_audio")) > count / 20
    assert max(tally.times_s) < LONGEST_ANSWER_S
    assert_flat(tally.own_bytes)
    assert_flat(tally.worker_bytes)
    assert workers() == []


def assert_flat(taken: list[int]) -> None:
    half = len(taken) // 2
    assert statistics.mean(taken[half:]) < 1.05 * statistics.mean(taken[:half]) + 8e6, taken


@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
async def test_mutated_files_are_answered_over_http(count: int, folder: Path) -> None:
    # Others than above.
    mutants, statuses = hostile.Mutants(1), Counter[int]()
    async with nothing_left_behind(), service_on(DecodePool(2, LIMITS, ENV)) as client:

        async def judge(number: int) -> None:
            reply = await client.post("/transcribe", files={"file": (f"{number}.wav", mutants.make(number))})
            statuses[reply.status_code] += 1
            if reply.status_code != 200:
                assert reply.json()["code"] in ("unreadable_audio", "audio_too_long", "missing_audio")

        await in_parallel(count, 4, judge)
        assert (await client.get("/readyz")).status_code == 200
    print(statuses)  # noqa: T201
    assert set(statuses) <= {200, 400, 413}
    assert min(statuses[200], statuses[400]) > count / 10
    assert os.listdir(folder) == []
    assert workers() == []


REFUSED_TRAPS = {
    *("nothing", "zeros", "opus of hours", "wav of 4 GHz", "wav of 1 Hz", "wav of 255 channels"),
    *("wav of 65535 channels", "mp3 behind an endless tag", "mp4 of deep boxes", "ogg of many streams"),
    *("ogg of empty pages", "aac of tiny frames", "amr of nothing"),
}
"""Of the others nothing is promised but an answer: sound that is there may well be found."""


async def test_traps_are_answered() -> None:
    refused = set()
    async with nothing_left_behind(), pool_of(2, LIMITS) as (pool, restarts):
        before = max(worker.memory_info().rss for worker in workers())
        for name, data in hostile.traps():
            started = time.perf_counter()
            try:
                outcome = await transcribable(pool, data)
            except InvalidInput:
                refused.add(name)
            else:
                assert outcome.summary is not None
                assert outcome.summary.duration_s < 2, name
            assert time.perf_counter() - started < LONGEST_ANSWER_S, name
        assert len((await transcribable(pool, hostile.seeds()["wav"])).windows) == 1
        # Whatever they took is given back.
        assert all(worker.memory_info().rss < before + 48e6 for worker in workers())
        assert restarts == []
    assert refused >= REFUSED_TRAPS


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_long_traps_are_answered() -> None:
    """The same at about 100 MB each, and a tag of 200 MB before the sound. Workers may die of them, by their limits."""
    async with nothing_left_behind(), pool_of(2, LIMITS) as (pool, restarts):
        for scale, chosen in ((100, ""), (200, "mp3 behind a tag")):
            for name, data in hostile.traps(scale):
                if chosen not in name:
                    continue
                started = time.perf_counter()
                with contextlib.suppress(InvalidInput):
                    await transcribable(pool, data)
                took_s = time.perf_counter() - started
                print(f"{name}: {len(data) / 1e6:.0f} MB, {took_s:.1f} s, {len(restarts)} workers lost")  # noqa: T201
                assert took_s < LIMITS.stall_timeout_s + 5, name
        assert len((await transcribable(pool, hostile.seeds()["wav"])).windows) == 1


async def test_files_that_refer_to_others_are_not_followed(listener: socket.socket, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(hostile.seeds()["wav"])
    port = listener.getsockname()[1]
    urls = (f"http://127.0.0.1:{port}/a.wav", f"tcp://127.0.0.1:{port}", str(secret), f"file://{secret}", "/etc/passwd")
    async with pool_of(1, LIMITS) as (pool, restarts):
        for url in urls:
            for name, data in hostile.references(url):
                try:
                    outcome = await transcribable(pool, data)
                except InvalidInput:
                    continue
                # What such a file itself holds may be decoded as sound; what it refers to is speech.
                assert name == "reference.mov"
                assert outcome.windows == []
        assert restarts == []
    with pytest.raises(BlockingIOError):
        listener.accept()


NAMES = (
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..\\..\\boot.ini",
        "link.wav",
        "concat:/etc/passwd",
        "http://127.0.0.1/a.wav",
    ),
    *("-i", "a\nb", "%s%n", "\u202egnp.wav", "|id", "$(id).wav", "x" * 200, ".", ""),
)


async def test_names_are_never_paths(folder: Path) -> None:
    (folder / "link.wav").symlink_to("/etc/passwd")
    seen: list[str] = []

    class Decoder(DecodePool):
        """Notes what the files that it is given are called on the disk."""

        def windows(self, audio_fd: int, pcm_fd: int, size_bytes: int) -> AsyncGenerator[Window | AudioSummary, None]:
            seen.extend(os.readlink(f"/proc/self/fd/{fd}") for fd in (audio_fd, pcm_fd))
            return super().windows(audio_fd, pcm_fd, size_bytes)

    speech = hostile.seeds()["wav"]
    async with service_on(Decoder(1, LIMITS, ENV)) as client:
        for name in NAMES:
            reply = await client.post("/transcribe", files={"file": (name, speech)})
            assert reply.status_code == 200, name
            assert os.listdir(folder) == ["link.wav"]
        too_long = await client.post("/transcribe", files={"file": ("x" * 100_000, speech)})
        assert too_long.status_code == 400
    assert len(seen) == 2 * len(NAMES)
    # Files without a name in the file system, before and after.
    assert all(path.startswith((f"{folder}/", "/memfd:")) and path.endswith(" (deleted)") for path in seen)
    assert all(len(Path(path).name) < 40 for path in seen)


async def test_workers_inherit_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("ASR_AUTH__JWT__SECRET", "ASR_REDIS_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL")
    for name in secrets:
        monkeypatch.setenv(name, "s3cret-value")
    pool = DecodePool(1, LIMITS, decoder_environment() | ENV)
    await pool.start()
    try:
        (worker,) = workers()
        try:
            environment = proc(worker, "environ")
            descriptors = open_files(worker.pid)
        except PermissionError:
            pytest.skip("a worker hides such things from all but root")
        assert "PYTHONPATH" in environment
        assert "s3cret-value" not in environment
        # Beside standard input, output and errors there is its channel, and nothing else of the service's.
        assert descriptors.pop("0") == "/dev/null"
        (channel,) = descriptors.keys() - {"1", "2"}
        assert descriptors[channel].startswith("socket:")
    finally:
        await pool.aclose()


async def test_workers_run_behind_a_filter() -> None:
    async with pool_of(1):
        (worker,) = workers()
        assert "Seccomp:\t2" in proc(worker, "status")
        # Nothing but what decodes: no library's thread works beside it.
        assert "Threads:\t1\n" in proc(worker, "status")
