"""Options and what all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples in every run: what fails here fails everywhere.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-samples", action="store_true", help="every OpInfo sample instead of a few of each")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tests run side by side


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    absent = pytest.mark.skip(reason="needs an NVIDIA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """Keeps what scopes register until the module's last test: a scope then opens gates, and no more.

    No gate is open outside the test's own scopes.
    """
    import flag_gems

    with flag_gems.use_gems(include=[]):
        yield


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """A torch.compile that has compiled nothing, and no gate open; the same after the test."""
    import flag_gems

    torch.compiler.reset()
    flag_gems.reset_stats()
    yield
    flag_gems.disable()
    torch.compiler.reset()
