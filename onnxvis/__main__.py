"""``python -m onnxvis``."""

from onnxvis.cli import main

raise SystemExit(main())
