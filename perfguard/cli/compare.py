"""`perfguard compare A B`: is B slower than A?"""

from __future__ import annotations

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
from perfguard.model.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION
from perfguard.model.result import CompareVerdict


def compare_command(
    baseline: Annotated[str, typer.Argument(help="A version, or with --repo anything git names.")],
    candidate: Annotated[str, typer.Argument(help="The revision to judge against it.")],
    repo: RepoOption = None,
    package: PackageOption = "sglang",
    bundle: BundleOption = None,
    scenario: ScenarioOption = DEFAULT_SCENARIO,
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
    """Measure two revisions in interleaved blocks and say whether CANDIDATE is slower; exit code 1 if it is."""
    from perfguard.cli.faces import Faces
    from perfguard.cli.output import Output, make_request
    from perfguard.workflows.compare import compare

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
        ("compare", baseline, candidate),
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
        result = compare(request, baseline, candidate, output.progress)
        output.show(result)
    if result.verdict is CompareVerdict.UNKNOWN:
        return EXIT_INCONCLUSIVE
    return EXIT_REGRESSION if result.verdict is CompareVerdict.SLOWER else EXIT_OK
