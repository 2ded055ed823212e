"""What each ONNX operator means to the native engine: rules turn nodes into symbols and operators.

A rule that does not know a form raises NotUnderstood with the reason. `graph.py` has the table of all rules.
"""
