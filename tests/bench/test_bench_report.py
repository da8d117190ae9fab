"""Results as tables, lines and a page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nimlite.bench.quality import Quality
from nimlite.bench.report import Environment, Report, markdown, print_report, write_section
from nimlite.bench.server import Footprint
from nimlite.bench.timing import Measurement, Percentiles
from nimlite.bench.workload import Workload
from nimlite.build.quality import QualityReport
from nimlite.errors import SettingError
from nimlite.profiles.manifest import Precision

QUALITY = QualityReport(
    num_tokens=1624,
    max_absolute_error=1,
    relative_error=0.05,
    argmax_agreement=0.95,
    kl_divergence=0.02,
    perplexity=12.12,
    reference_perplexity=12.0,
)


def measurement(system: str, concurrency: int, decode_tok_s: float) -> Measurement:
    return Measurement(
        system=system,
        variant="bf16",
        workload=Workload(
            concurrency=concurrency, num_requests=4, num_prompt_tokens=200, num_output_tokens=128
        ),
        seconds=2.0,
        num_prompt_tokens=800,
        num_output_tokens=512,
        decode_tok_s=decode_tok_s,
        time_to_first_token_ms=Percentiles(10.0, 20.0),
        inter_token_ms=Percentiles(1.0, 2.0),
        client_cpu_s=0.05,
    )


REPORT = Report(
    environment=Environment(
        machine="2 cores", date="2026-01-01", commit="abc", versions="v", load=0.1, method="How."
    ),
    measurements=(measurement("a", 1, 77), measurement("a", 8, 20), measurement("b", 8, 30)),
    footprints=(
        Footprint(system="a", variant="bf16", start_s=3.21, ready_rss=1 << 30, peak_rss=3 << 29),
    ),
    qualities=(
        Quality(precision=Precision.INT4, report=QUALITY, decode_tok_s=101.4),
        Quality(
            precision=Precision.INT4_GPTQ,
            report=QUALITY,
            decode_tok_s=98.6,
            nearest=replace(QUALITY, perplexity=18.0),
        ),
    ),
)


def test_markdown() -> None:
    page = markdown(REPORT)
    assert page.startswith("2 cores, load before 0.1; 2026-01-01, commit abc; v. How.\n\n")
    # One stream by its decoding, several by their sum, and nothing where nothing was measured.
    assert "| a | bf16 | 77 | 256 |\n| b | bf16 |  | 256 |" in page
    assert "| a | bf16 | 1 stream | 10.0 | 20.0 | 1.0 | 2.0 | 2.5 |" in page
    assert "| a | bf16 | 3.2 | 1.00 | 1.50 |" in page
    assert "| int4 | 12.120 | +1.00% |  | 95.0% | 101 |" in page
    assert "| int4_gptq | 12.120 | +1.00% | +50.00% | 95.0% | 99 |" in page


def test_tables_show_the_same() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        print_report(REPORT, console)
    for text in ("machine: 2 cores", "8 concurrent", "77", "3.2", "+1.00%"):
        assert text in shown.get()


def test_json_lines() -> None:
    lines = [json.loads(line) for line in REPORT.json_lines().splitlines()]
    kinds = ["environment", *["measurement"] * 3, "footprint", *["quality"] * 2]
    assert [line["kind"] for line in lines] == kinds
    assert lines[2]["workload"]["concurrency"] == 8
    assert lines[2]["output_tok_s"] == 256
    assert lines[5]["report"]["perplexity"] == 12.12


def test_a_section_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- bench cpu begins -->\nold\n<!-- bench cpu ends -->\nrest\n")
    for text in ("first", r"\1 second"):
        write_section(page, "cpu", text)
        begin, end = "<!-- bench cpu begins -->", "<!-- bench cpu ends -->"
        assert page.read_text() == f"# A\n{begin}\n\n{text}\n\n{end}\nrest\n"


def test_a_page_without_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"page\.md has no place for the results: put"):
        write_section(tmp_path / "page.md", "cpu", "text")
