"""Import of `pulumi.automation` at its first use.

`import pulumi` imports it, which takes a third of that import's time, and few programs use it. The scripts beside this file
import it by its own name: like them, it must not import the engine.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class _LazyAutomation:
    """A finder of modules, to be placed in `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "pulumi.automation":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_automation_lazily() -> None:
    """Call this before `import pulumi`."""
    sys.meta_path.insert(0, _LazyAutomation())
