"""Pictures of results: recorded where the model runs, drawn later from what was recorded.

:mod:`tokenreduce.pictures.recording` makes the documents of picture records,
:mod:`tokenreduce.pictures.documents` says what is in them, and :mod:`tokenreduce.pictures.page`
and :mod:`tokenreduce.pictures.figures` draw. Recording needs no matplotlib, drawing no torch.
"""
