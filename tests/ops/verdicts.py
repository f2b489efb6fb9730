"""Why a peer and we may disagree: one written reason for each disagreement.

The keys are patterns of "peer: Kind name of the case". Peers are ``runtime`` (ONNX
Runtime), ``reference`` (onnx's own), ``body``, ``traced``, ``float64``, ``types`` and
``nobody`` (no peer can run the case).
"""

VERDICTS: dict[str, str] = {}
