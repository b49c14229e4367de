"""One scene: from its plan over its blocks to its outputs, and what is left to go on with."""
