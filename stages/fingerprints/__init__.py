"""What a benchmark reads from outside (data of tasks, encoders' weights), as small files that DVC tracks.

Such a fingerprint changes exactly when names or contents do: :mod:`outside` says which there are, :mod:`walk` lists their files,
:mod:`fingerprint` makes one, :mod:`notes` remembers hashes so that the next one costs a ``stat`` for each file, :mod:`changes` says
in words what is different between two.
"""
