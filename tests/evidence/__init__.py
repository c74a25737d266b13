"""Pages of evidence below `outputs/`, written from the records beside them: `make evidence`."""

from collections.abc import Callable

from tests.evidence import exports, gpu, reliability, results, search, speed, studies

PAGES: dict[str, Callable[[], str]] = {
    "outputs/records/README.md": results.page,
    "outputs/records/benchmark/README.md": speed.benchmark,
    "outputs/records/time_to_accuracy/README.md": speed.time_to_accuracy,
    "outputs/records/processes/README.md": speed.processes,
    "outputs/records/tried/README.md": results.tried,
    "outputs/records/lr_x_expand_ratio/README.md": search.sweep,
    "outputs/records/pruned_search/README.md": search.pruning,
    "outputs/records/tpe_and_random/README.md": search.samplers,
    "outputs/records/export/README.md": exports.exports,
    "outputs/records/inference/README.md": speed.inference,
    "outputs/records/gpu/README.md": gpu.gpu,
    "outputs/records/studies/README.md": studies.studies,
    "outputs/records/relu_collapse/README.md": results.relu_collapse,
    "outputs/reliability/README.md": reliability.page,
}
