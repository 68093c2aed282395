"""ONNX to ONNX: pure functions on :class:`onnx.ModelProto`.

Nothing here opens a session, imports torch or touches a file. ``canonical`` rewrites any file into one
small dialect; ``expose`` and ``cut`` edit a graph; ``index``, ``receptive``, ``head`` and ``layers``
read one.
"""
