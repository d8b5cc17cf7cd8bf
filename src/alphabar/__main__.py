"""``python -m alphabar``."""

import sys

from alphabar.cli.main import main

sys.exit(main())
