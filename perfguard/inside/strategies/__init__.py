"""Ways of getting multimodal inputs to every tensor-parallel rank, put into a server's processes after its imports.

`codec` parts a value into metadata and raw buffers, `collectives` moves both between ranks, `cards` over the links between
their cards (with a `line` for the metadata), `shared` through POSIX shared memory, `hashing` computes the server's content
hash without its copies; `server` knows SGLang and changes its modules.

    as-committed      the revision as it is: nothing is replaced
    local             every rank builds its own inputs from what it received, and hashes them (the revert)
    broadcast         rank 0 builds them once and sends them with `broadcast_object_list` (the commit's way)
    conditional       local under `SGLANG_MM_BROADCAST_THRESHOLD` bytes, broadcast from there on
    tensor-broadcast  rank 0 hashes before requests go to the ranks, and then they go as metadata and raw tensors
    shared-memory     the tokenizer's process hashes and writes once to a segment; only its name travels

Nothing here imports perfguard. `install` is all that the hook calls.
"""

NAMES = ("as-committed", "local", "broadcast", "conditional", "tensor-broadcast", "shared-memory")


def install(name, record):
    """Return what to do around which import, as the hook's interceptor takes it; `record(**fields)` writes a report line."""

    # A module of the hook must not import torch: most of a server's helper processes never do.
    def scheduler(module, execute):
        execute()
        from . import server

        server.change_scheduler(module, name, record)

    def requests(module, execute):
        execute()
        from . import server

        server.change_requests(module, record)

    def tokenizer(module, execute):
        execute()
        from . import server

        server.change_tokenizer(module)

    around = {"sglang.srt.managers.scheduler": scheduler}
    if name == "shared-memory":
        around["sglang.srt.managers.io_struct"] = requests
        around["sglang.srt.managers.tokenizer_manager"] = tokenizer
    return around
