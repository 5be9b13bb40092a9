from tests.runtime.conftest import stub  # noqa: F401
