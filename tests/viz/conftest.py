"""One headless Chromium for all tests of pages."""

import chromium
import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if chromium.executable() is None:
        pytest.skip(f"no Chromium on the path: none of {', '.join(chromium.NAMES)}")
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
