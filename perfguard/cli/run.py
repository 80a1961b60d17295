"""`perfguard run REV...`: measure revisions side by side, without a verdict."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from perfguard.cli.options import (
    DEFAULT_SCENARIO,
    BundleOption,
    ConfidenceOption,
    DeviceOption,
    Installer,
    InstallerOption,
    JsonOption,
    JunitOption,
    KernelsOption,
    MarkdownOption,
    ModelOption,
    PackageOption,
    PortOption,
    QuietOption,
    RepoOption,
    ResumeOption,
    RunDirOption,
    SarifOption,
    ScenarioChanges,
    ScenarioOption,
    SeedOption,
    TpOption,
    VerboseOption,
    changed_scenario,
)
from perfguard.model.errors import EXIT_INCONCLUSIVE, EXIT_OK
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Untestable

# A difference of 2.1 times the spread of single differences is then beyond the noise of all five comparisons together.
BLOCKS_OF_ALL = 5


class StrategyChoice(str, Enum):
    """One of the strategies, or all of them."""

    AS_COMMITTED = Strategy.AS_COMMITTED.value
    LOCAL = Strategy.LOCAL.value
    BROADCAST = Strategy.BROADCAST.value
    CONDITIONAL = Strategy.CONDITIONAL.value
    TENSOR_BROADCAST = Strategy.TENSOR_BROADCAST.value
    SHARED_MEMORY = Strategy.SHARED_MEMORY.value
    ALL = "all"

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """What to measure."""
        return tuple(Strategy) if self is StrategyChoice.ALL else (Strategy(self.value),)


def run_command(
    revisions: Annotated[list[str], typer.Argument(help="Versions, or with --repo anything git names.")],
    repo: RepoOption = None,
    package: PackageOption = "sglang",
    bundle: BundleOption = None,
    scenario: ScenarioOption = DEFAULT_SCENARIO,
    blocks: Annotated[
        int | None,
        typer.Option(
            "--blocks",
            "--repeats",
            min=1,
            help="Blocks, each with one trial of every arm. Default: 5 for `--strategy all`, else 1.",
        ),
    ] = None,
    strategy: Annotated[
        StrategyChoice, typer.Option(help="How multimodal inputs reach every rank; `all` measures each way.")
    ] = StrategyChoice.AS_COMMITTED,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    confidence: ConfidenceOption = None,
    device: DeviceOption = None,
    kernels: KernelsOption = None,
    model: ModelOption = None,
    tp: TpOption = None,
    port: PortOption = None,
    installer: InstallerOption = Installer.PIP,
    markdown: MarkdownOption = None,
    junit: JunitOption = None,
    sarif: SarifOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,  # noqa: ARG001 - read where errors are caught
) -> int:
    """Measure REVISIONS under one load and print the table; no verdict."""
    from perfguard.cli.faces import Faces
    from perfguard.cli.output import Output, make_request
    from perfguard.workflows.measure import measure

    changes = ScenarioChanges(
        confidence=confidence,
        device=device,
        kernels=kernels,
        model=model,
        tensor_parallel_size=tp,
    )
    request = make_request(
        ("run", *revisions),
        repo=repo,
        package=package,
        scenario=changed_scenario(scenario, changes),
        run_dir=run_dir,
        resume=resume,
        seed=seed,
        port=port,
        installer=installer.value,
        bundle=bundle,
    )
    faces = Faces(markdown=markdown, junit=junit, sarif=sarif)
    with Output(request, as_json=as_json, quiet=quiet, faces=faces) as output:
        count = blocks or (BLOCKS_OF_ALL if strategy is StrategyChoice.ALL else 1)
        result = measure(request, tuple(revisions), count, output.progress, strategy.strategies)
        output.show(result)
    failed = any(isinstance(trial.outcome, Untestable) for trial in result.trials)
    return EXIT_INCONCLUSIVE if failed else EXIT_OK
