"""`python -m docs.tables`."""

import sys

from .build import main

sys.exit(main())
