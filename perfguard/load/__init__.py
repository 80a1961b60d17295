"""The frozen schedule of requests, the client that replays it, and the latencies it records."""
