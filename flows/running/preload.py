"""What the workers' server loads once; forked workers then start with it."""

import contextlib

with contextlib.suppress(ImportError):  # commands that are no stages need none of it
    import stages.evaluate
    import stages.match
    import stages.merge
    import stages.statistics
    import stages.train  # noqa: F401
