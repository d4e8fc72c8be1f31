"""What the workers' server loads once; forked workers then start with it."""

import contextlib

with contextlib.suppress(ImportError):  # commands that are no stages need none of it
    from stages.__main__ import loaded_code

    loaded = loaded_code()  # before what it is to watch
    import stages.evaluate
    import stages.match
    import stages.merge
    import stages.statistics
    import stages.train  # noqa: F401

    loaded.settle()
