"""The methods: a file per preset family, each a table with its citation, its controls and its paper's numbers."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
