"""`perfguard bisect GOOD BAD`: name the revision that made the server slower."""

from __future__ import annotations

from typing import Annotated

import typer

from perfguard.cli.options import (
    DEFAULT_SCENARIO,
    ConfidenceOption,
    DeviceOption,
    Installer,
    InstallerOption,
    JsonOption,
    JunitOption,
    KernelsOption,
    MarkdownOption,
    MaxTrialsOption,
    MinEffectOption,
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
from perfguard.model.fix import FixMode
from perfguard.model.result import BisectVerdict, Direction


def bisect_command(
    good: Annotated[str, typer.Argument(help="A revision that is fast: a version, or with --repo anything git names.")],
    bad: Annotated[str, typer.Argument(help="A later revision that is slow.")],
    repo: RepoOption = None,
    package: PackageOption = "sglang",
    scenario: ScenarioOption = DEFAULT_SCENARIO,
    find: Annotated[Direction, typer.Option(help="What to look for.")] = Direction.REGRESSION,
    all_revisions: Annotated[
        bool, typer.Option("--all-revisions", help="Measure also revisions that touch no file that the servers load.")
    ] = False,
    fix: Annotated[
        FixMode, typer.Option(help="Measure what gives it back: the culprit's revert, or also every strategy.")
    ] = FixMode.NONE,
    fix_rounds: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Rounds of --fix, each with every arm once. Default: 5, or 4 for all."),
    ] = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    max_trials: MaxTrialsOption = None,
    min_effect: MinEffectOption = None,
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
    """Find the revision between GOOD and BAD that made the server slower, and show the stack that did it."""
    from perfguard.cli.faces import Faces
    from perfguard.cli.output import Output, make_request
    from perfguard.workflows.bisect import bisect

    changes = ScenarioChanges(
        max_trials=max_trials,
        min_effect_percent=min_effect,
        confidence=confidence,
        device=device,
        kernels=kernels,
        model=model,
        tensor_parallel_size=tp,
    )
    request = make_request(
        ("bisect", good, bad),
        repo=repo,
        package=package,
        scenario=changed_scenario(scenario, changes),
        run_dir=run_dir,
        resume=resume,
        seed=seed,
        port=port,
        installer=installer.value,
    )
    faces = Faces(markdown=markdown, junit=junit, sarif=sarif)
    with Output(request, as_json=as_json, quiet=quiet, faces=faces) as output:
        result = bisect(
            request,
            good,
            bad,
            find,
            output.progress,
            all_revisions=all_revisions,
            fix=fix,
            fix_rounds=fix_rounds,
        )
        output.show(result)
    return EXIT_INCONCLUSIVE if result.verdict is BisectVerdict.UNKNOWN else EXIT_OK
