"""Finding the application's registry."""

from __future__ import annotations

import importlib
import os
import sys

from sqlxmq import JobRegistry
from sqlxmq.cli.app import Settings
from sqlxmq.cli.errors import WRONG_USAGE, Failure, one_line


def load_registry(target: str, settings: Settings) -> JobRegistry:
    """The registry that 'package.module:attribute' names; modules are also looked for in the current directory.

    Raises Failure, with what to do, if there is none.
    """
    module_name, colon, attribute = target.partition(":")
    if not module_name or not colon or not attribute:
        raise Failure(f"{target!r} names no registry: write MODULE:ATTRIBUTE, such as app.jobs:registry", WRONG_USAGE)
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if settings.debug:
            raise
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise Failure(
                f"there is no module {error.name}, in {directory} or among the installed packages: "
                "run this where the application is",
                WRONG_USAGE,
            ) from error
        raise Failure(
            f"importing {module_name} failed: {type(error).__name__}: {one_line(str(error))} "
            "(--debug shows the traceback)",
            WRONG_USAGE,
        ) from error
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, JobRegistry):
        known = [name for name, value in vars(module).items() if isinstance(value, JobRegistry)]
        what = "has no such attribute" if found is None else f"it is of type {type(found).__name__}"
        others = f"name {module_name}:{known[0]}" if known else "the module needs a sqlxmq.JobRegistry"
        raise Failure(f"{target} is no JobRegistry ({what}): {others}", WRONG_USAGE)
    return found
