"""`python -m pfa_onnx` is `pfa-onnx`."""

import sys

from pfa_onnx.cli import main

sys.exit(main())
