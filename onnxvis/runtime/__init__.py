"""Things that run a graph: onnxruntime sessions and the converted torch module.

A method asks the :class:`~onnxvis.runtime.engine.Engine` for tensors of the deployed graph and for
gradients; it does not know who computes them.
"""
