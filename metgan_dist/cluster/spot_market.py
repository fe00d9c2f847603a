"""EC2 machines from the spot market, and on demand where it has none: what cluster.yaml has Ray start machines with.

Ray by itself goes on asking for a spot machine that EC2 refuses, whatever else would do. The head imports this from a
folder that holds nothing else of the package: the standard library and Ray.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

logger = logging.getLogger(__name__)

MARKET = "InstanceMarketOptions"
# EC2's words for: no such machine is to be had as spot. Others (a wrong image, no right to start machines) would come
# back on demand too.
NONE_LEFT = {"InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"}


class SpotOrOnDemand(AWSNodeProvider):
    """Ray's own provider for AWS, but for a spot machine that is not to be had.

    Private: AWSNodeProvider, its `create_node`, and that it raises a NodeLaunchException with EC2's word as category.
    Ray loads a provider by name (cluster.yaml's `provider.module`), but publishes none to build on.
    """

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start `count` machines; returns {id: machine}."""
        try:
            started: dict[str, Any] = super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            if MARKET not in node_config or error.category not in NONE_LEFT:
                raise
            logger.warning("no spot machine (%s): starting %d on demand", error.category, count)
            started = super().create_node({k: v for k, v in node_config.items() if k != MARKET}, tags, count)
        return started
