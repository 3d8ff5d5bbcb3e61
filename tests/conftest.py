"""What every test shares: a clean environment, the event loop of asynchronous tests, reproducible generated cases.

Mark an asynchronous test with `@pytest.mark.anyio` and write `async def`. What only one layer needs (fakes, its
fixtures) lives in the conftest beside its tests.
"""

import os

import pytest
from hypothesis import settings

# Before anything reads them: a developer's own settings must not leak in, and no test may reach for a model hub.
for _name in [name for name in os.environ if name.startswith("ASR_")]:
    del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The same cases every time, and no deadline that a busy machine could miss.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as uvicorn does. Session-wide, so that fixtures of any scope may be async."""
    return "asyncio"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is no CUDA device. Torch is imported only if there is such a test."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
