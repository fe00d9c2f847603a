"""The tests here run jobs as those in end_to_end do, with the same words."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))
