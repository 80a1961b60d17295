"""What to run and how: the frozen form of a scenario file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class TargetKind(str, Enum):
    """What runs a revision."""

    SGLANG_SERVER = "sglang-server"
    COMMAND = "command"


class Device(str, Enum):
    """Where the server computes. On `CPU` stand-ins replace the GPU kernels; on `CUDA` see `Kernels`."""

    CPU = "cpu"
    CUDA = "cuda"


class Kernels(str, Enum):
    """Where the server's GPU kernels come from.

    `INSTALLED`: the environment's compiled package. `STAND_IN`: perfguard's; on `cuda` it computes the few that a small
    model needs in plain torch, so that the request path can be measured on cards without building anything.
    """

    INSTALLED = "installed"
    STAND_IN = "stand-in"


class VisionTower(str, Enum):
    """`ZEROS` answers the vision tower's forward with zeros of the right shape; the request path stays real."""

    REAL = "real"
    ZEROS = "zeros"


class ImageFormat(str, Enum):
    """The encoding of the images that requests carry."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"


class Strategy(str, Enum):
    """How multimodal inputs reach every rank. `AS_COMMITTED` runs the revision as it is.

    The others are put into the server whatever its revision does: each rank builds its own (`LOCAL`), rank 0 builds and
    pickles for all (`BROADCAST`), the one or the other by size (`CONDITIONAL`), raw tensors between ranks
    (`TENSOR_BROADCAST`), one copy on the machine (`SHARED_MEMORY`).
    """

    AS_COMMITTED = "as-committed"
    LOCAL = "local"
    BROADCAST = "broadcast"
    CONDITIONAL = "conditional"
    TENSOR_BROADCAST = "tensor-broadcast"
    SHARED_MEMORY = "shared-memory"

    def labelled(self, label: str) -> str:
        """Name a revision that runs with this strategy: `0.5.6`, or `0.5.6, local` where that changes it."""
        return label if self is Strategy.AS_COMMITTED else f"{label}, {self.value}"


class UserMetric(str, Enum):
    """What a client feels. Throughput is better when larger, the latencies when smaller."""

    THROUGHPUT = "throughput_rps"
    E2E_P50 = "e2e_p50_ms"
    E2E_P99 = "e2e_p99_ms"
    TTFT_P50 = "ttft_p50_ms"

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value is an improvement."""
        return self is UserMetric.THROUGHPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Images that one request carries: `count` of them, `width_px` x `height_px` each."""

    width_px: int
    height_px: int
    format: ImageFormat
    count: int = 1


class VideoSending(str, Enum):
    """How a video's frames are sent.

    `IMAGES`: each frame as a jpeg image of its request; the server sees images and no video. `FILE`: all of them in one
    Motion-JPEG file as a `video_url`, which the server must be able to decode.
    """

    IMAGES = "images"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """The video that one request carries. `frame_rate`, a second, stands in a `FILE`: servers choose frames by it."""

    width_px: int
    height_px: int
    frames: int
    sent_as: VideoSending = VideoSending.IMAGES
    frame_rate: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSpec:
    """One class of the requests of a mix: images, a video or, with neither, text alone.

    A request is of this class with a chance of `weight` over the sum of all weights. `repeated_frac` is the share of
    its images (or videos) that the class sent before; the others are then all new. None walks through
    `LoadSpec.distinct_images` of them in order, again and again.
    """

    name: str
    weight: float
    image: ImageSpec | None = None
    video: VideoSpec | None = None
    repeated_frac: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage of a ramp: `requests` requests from `concurrency` clients, or due at `request_rate` in an open loop."""

    requests: int
    concurrency: int | None = None
    request_rate: float | None = None


class AnswerKind(str, Enum):
    """How an answer is read. `OPENAI_STREAM`: server-sent events as of `/v1/chat/completions`, ended by `[DONE]`.

    `PLAIN`: any body, whole or in pieces; what counts as its first token is its first byte.
    """

    OPENAI_STREAM = "openai-stream"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """A request of the scenario's own, in place of the chat completion.

    The body is `json`, or `text` of the type `content_type`; neither: no body. In every text of it `{prompt}` becomes
    the request's prompt and `{number}` its number.
    """

    path: str
    method: str = "POST"
    json: Any = None
    text: str | None = None
    content_type: str = "application/json"
    answer: AnswerKind = AnswerKind.PLAIN


class ArrivalKind(str, Enum):
    """When an open loop's requests are due.

    `CONSTANT`: evenly spaced; `POISSON`: independent of each other; `GAMMA`: gaps from a gamma distribution of shape
    `burstiness`; `BURST`: `burst_size` at once, then nothing until the next ones; `TRACE`: when a trace file says.
    """

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"
    BURST = "burst"
    TRACE = "trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalSpec:
    """The arrivals of an open loop; the words are those of vLLM's and SGLang's `bench_serving`.

    `request_rate` is the mean of all kinds but `TRACE`, in requests a second. `burstiness` 1 is Poisson, less comes in
    clumps, more is more even. `trace_file` is JSON lines, see `perfguard.load.trace`.
    """

    kind: ArrivalKind
    request_rate: float | None = None
    burstiness: float = 1.0
    burst_size: int = 1
    trace_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SloSpec:
    """What a request must meet to count as goodput; None asks for nothing. All in milliseconds."""

    ttft_ms: float | None = None
    e2e_ms: float | None = None
    tpot_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """A load of `requests` requests in all; closed where `arrival` is None, else open.

    Closed: `concurrency` clients send their next request as soon as their last one is answered. Open: requests are due
    when `arrival` says, whatever the server does, and `concurrency` is the most that are in flight.

    `warmup_requests` go first on a server that was just started and are not measured; `settling_requests` likewise
    before every later trial on it. `profiled_requests` follow the measured ones with
    the stack sampler attached, so that its cost is not in the user metric. `distinct_images` different
    images are made from `seed` and reused in order. `request` None sends chat completions.

    `media` is a mix, in place of `image`. `stages` are a ramp: the measured requests go out stage by stage, each begun
    when the one before is answered; `requests` is their sum. The other requests know no stages.
    """

    requests: int
    concurrency: int
    warmup_requests: int
    settling_requests: int
    profiled_requests: int
    image: ImageSpec | None = None
    distinct_images: int = 64
    prompt_chars: int
    output_tokens: int
    request_timeout_s: float
    seed: int
    request: RequestSpec | None = None
    arrival: ArrivalSpec | None = None
    slo: SloSpec | None = None
    media: tuple[MediaSpec, ...] = ()
    stages: tuple[StageSpec, ...] = ()

    @property
    def carries_media(self) -> bool:
        """Whether any request carries an image or a video."""
        return self.image is not None or any(each.image or each.video for each in self.media)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilingSpec:
    """How stacks are sampled while the profiled requests run.

    Only the first `trials_per_revision` trials of a revision are profiled, half of them at most on one server start:
    costs per request vary little between trials, and the time is better spent on the user metric, which varies more.
    """

    enabled: bool
    trials_per_revision: int
    rate_hz: int
    nonblocking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """How any server is started from a revision's tree.

    In `line`, the command and its arguments, `{python}` becomes the environment's interpreter, `{port}` the port to
    listen on (of 127.0.0.1) and `{tree}` the revision's tree, which is also the working directory. `source_root`, below
    the tree, goes on Python's import path. The server is ready when a GET of `health_path` answers 200.
    What a command loads is not known, so that a bisect searches among all commits.
    """

    line: tuple[str, ...]
    health_path: str = "/health"
    source_root: str = "."


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """The server under test and how it is started.

    `model` None means the generated tiny vision-language model with dummy weights. `environment_spec`
    names the managed environment; `python` means the interpreter that runs perfguard, `python:PATH` another one.
    `kernels` None is what the device always has: stand-ins on `cpu`, those installed on `cuda`. `extra_args` are
    appended to the server's command line. `command` belongs to the kind of that name.
    """

    kind: TargetKind
    device: Device
    tensor_parallel_size: int
    model: str | None
    vision_tower: VisionTower
    environment_spec: str
    extra_args: tuple[str, ...]
    extra_environment: tuple[tuple[str, str], ...]
    start_timeout_s: float
    drain_timeout_s: float
    command: CommandSpec | None = None
    kernels: Kernels | None = None

    @property
    def stands_in(self) -> bool:
        """Whether stand-ins replace the GPU kernels."""
        if self.kernels is None:
            return self.device is Device.CPU
        return self.kernels is Kernels.STAND_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a comparison or a search stops.

    `min_effect_frac` is the smallest change of the user metric worth naming (0.05 is 5%), `confidence`
    the level of every interval and verdict, `max_trials` the most trials one run may spend.
    """

    min_effect_frac: float
    confidence: float
    max_trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario file, read and checked."""

    name: str
    description: str
    target: TargetSpec
    load: LoadSpec
    profiling: ProfilingSpec
    metric: UserMetric
    limits: Limits
