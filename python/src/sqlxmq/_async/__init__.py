"""The asynchronous source of what the package has in both forms; the other form, in _sync, is generated from it."""
