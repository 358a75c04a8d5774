"""`python -m stream_mla` is the command line."""

import sys

from stream_mla.cli.main import main

sys.exit(main())
