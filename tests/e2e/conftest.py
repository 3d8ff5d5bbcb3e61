"""What tests of the proxy share: certificates, a replica that is scripted, and nginx in front of it."""

import subprocess
from collections.abc import AsyncIterator

import pytest

from tests.e2e.proxy import DEPLOY, Certificates, Proxy, proxy
from tests.e2e.replica import Replica, replica

INSIDE = "127.0.0.1"
OUTSIDE = "127.0.0.2"
BALANCER = "127.0.0.3"
"""Addresses that clients in tests call from, as the proxy sees them."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    subprocess.run([DEPLOY / "make-dev-cert.sh", folder], check=True, capture_output=True, timeout=30)
    return Certificates(folder)


@pytest.fixture(scope="module")
async def behind(anyio_backend: str) -> AsyncIterator[Replica]:
    """The replica behind `front`."""
    async with replica("a") as running:
        yield running


@pytest.fixture(scope="module")
async def front(
    behind: Replica, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Proxy]:
    """nginx with room for many requests, and little patience."""
    folder = tmp_path_factory.mktemp("front") / "nginx"
    with proxy(
        folder,
        certificates,
        [behind.address],
        ASR_MAX_UPLOAD_MB="1",
        ASR_UPLOAD_TIMEOUT_S="0.5",
        PROXY_ANSWER_TIMEOUT_S="1",
        PROXY_HEADER_TIMEOUT_S="1",
        PROXY_REQUESTS_PER_S="1000",
        PROXY_BURST="1000",
        PROXY_CONNECTIONS="500",
        PROXY_INTERNAL_NETWORKS=INSIDE,
        PROXY_REAL_IP_FROM=BALANCER,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    """Each test sees only what it caused."""
    if "behind" in request.fixturenames:
        request.getfixturevalue("behind").forget()
