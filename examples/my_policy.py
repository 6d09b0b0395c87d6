"""A policy of one's own: small messages by the ring, large ones by pipes, and the network where it must be.

    cwasi policy generate size-shift -o shift.trace
    cwasi policy replay shift.trace --policy cost,examples/my_policy.py:MyPolicy
"""

import cwasi_fastpath as cwasi


class MyPolicy(cwasi.Policy):
    def decide(self, request: cwasi.Request) -> cwasi.Decision | None:
        seen = request.observation
        small = seen is None or seen.mean_bytes < 65536
        near = ["ring", "pipe"] if small else ["pipe", "ring"]
        for way in map(cwasi.Way.parse, [*near, "tcp", "redis"]):
            if request.obstacle(way) is None:
                return cwasi.Decision.for_way(request, way, "small messages" if small else "large messages")
        return None
