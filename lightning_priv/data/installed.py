"""Find the data files that installed packages ship, without importing the packages."""

from importlib.util import find_spec
from pathlib import Path

from lightning_priv.errors import DatasetUnavailableError

__all__ = ["package_file"]


def package_file(package: str, name: str, needed_for: str, extra: str | None = None) -> Path:
    """Return the path of a file inside an installed package.

    Args:
        package: import name of the package; it is located, not imported.
        name: path of the file below the package's folder.
        needed_for: class to name in an error.
        extra: our optional dependency group that installs the package; None if it is always
            installed.

    Returns:
        The path of an existing file.

    Raises:
        DatasetUnavailableError: if the package is not installed or has no such file.
    """
    install = f"pip install lightning-priv[{extra}]" if extra else f"pip install -U {package}"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetUnavailableError(
            f"{needed_for} reads a file of the package {package}, which is not installed; "
            f"run: {install}"
        )
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise DatasetUnavailableError(
            f"{needed_for} reads {path}, which this version of {package} does not ship; "
            f"run: {install}"
        )
    return path
