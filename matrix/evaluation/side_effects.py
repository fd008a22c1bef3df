"""Undoes what importing and calling alpaca-eval does to the process: root logger, environment, output, warnings."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Every import and call of alpaca-eval stands in such a block.

    The package sets the root logger to INFO, reads `.env` into the environment, needs a user name to be imported, draws
    progress bars and logs a traceback for every answer that it cannot parse (we count these). scikit-learn's switch for
    metadata routing, which it turns on, is put back with `sklearn.config_context` where a regression is fitted.
    """
    root, environment = logging.getLogger(), set(os.environ)
    level, handlers, disabled = root.level, root.handlers[:], root.manager.disable
    os.environ.setdefault("USER", "matrix")
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)
            root.setLevel(level)
            root.handlers[:] = handlers
            for name in set(os.environ) - environment:
                del os.environ[name]
