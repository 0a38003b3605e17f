"""The needs of archives of 10⁶ to 10⁹ images: requests, shards, GPU-hours and money, from the figures below.

Measured figures are those that `python -m benchmarks.scale` prints; the others name their source. Change any:

    python -m benchmarks.scale_arithmetic [name=value ...]
"""

import sys
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Figures:
    """One line each in the printed list, with its source."""

    source_kb: float = 300  # assumed: a photograph of a web shop, 1 MP; `benchmarks.synthetic` makes as much
    archive_kb: float = 100  # assumed: three times the 32 KB of a megapixel (0.254 bits a pixel) in results/codec_speed.txt
    shard_images: int = 1300  # 128 MiB of `archive_kb`
    gpu_images_per_second: float = 500  # assumed for one data-centre GPU and 1 MP; no machine of these tests has one
    page_keys: int = 1000  # S3 API reference, ListObjectsV2: MaxKeys at most 1000
    page_ms: float = 100  # S3: 100 to 200 ms for a small request (AWS, "Best practices design patterns: performance")
    parse_cpu_ms: float = 12.5  # cpu_ms_a_page of `benchmarks.scale --steps parse`: benchmarks/results/scale.txt
    read_cpu_ms: float = 2.2  # cpu_ms_a_shard of `benchmarks.scale --steps read`: benchmarks/results/scale.txt
    read_requests: float = 9  # the footer and the 8 row groups of 16 MiB (the benchmark's synthetic shards have one each)
    commit_shards: int = 8  # shards.commit_every
    list_usd_per_1000: float = 0.005  # S3 Standard, us-east-1: PUT, COPY, POST, LIST
    put_usd_per_1000: float = 0.005  # the same
    get_usd_per_1000: float = 0.0004  # S3 Standard, us-east-1: GET
    storage_usd_per_gb_month: float = 0.023  # S3 Standard, us-east-1, first 50 TB
    gpu_usd_per_hour: float = 1.3232  # g6.4xlarge of cluster.yaml, on demand, us-west-2: EC2 price list
    night_share: float = 0.01  # assumed: of the images are new or changed in a night


@dataclass(frozen=True)
class Archive:
    """The needs of ``images`` of them, by `Figures`."""

    images: int
    figures: Figures

    def rows(self) -> dict[str, float]:
        f, n = self.figures, self.images
        shards, pages = -(-n // f.shard_images), -(-n // f.page_keys)
        gpu_hours = n / f.gpu_images_per_second / 3600
        puts = shards * 2 + shards / f.commit_shards * 1.1
        night_usd = (pages * f.list_usd_per_1000 + shards * f.read_requests * f.get_usd_per_1000) / 1000
        changed_usd = f.night_share * (gpu_hours * f.gpu_usd_per_hour + n * f.get_usd_per_1000 / 1000)
        return {
            "source, TB": n * f.source_kb / 1e9,
            "archive, TB": n * f.archive_kb / 1e9,
            "shards": shards,
            "LIST requests": pages,
            "listing, hours one after the other": pages * f.page_ms / 3.6e6,
            "listing, CPU hours": pages * f.parse_cpu_ms / 3.6e6,
            "first run: GET requests": n,
            "first run: PUT requests": puts,
            "first run: GPU hours": gpu_hours,
            "first run: requests, USD": n * f.get_usd_per_1000 / 1000 + puts * f.put_usd_per_1000 / 1000,
            "first run: GPU, USD": gpu_hours * f.gpu_usd_per_hour,
            "quiet night: GET requests": shards * f.read_requests,
            "quiet night: CPU hours to read the archive": shards * f.read_cpu_ms / 3.6e6,
            "quiet night: USD": night_usd,
            "night with changes: USD beside": changed_usd,
            "storage saved a month, USD": n * (f.source_kb - f.archive_kb) / 1e6 * f.storage_usd_per_gb_month,
        }


def table(figures: Figures, sizes: tuple[int, ...] = (10**6, 10**7, 10**8, 10**9)) -> str:
    """Markdown: the figures, then a column for each size."""
    columns = [Archive(size, figures).rows() for size in sizes]
    lines = [f"| images | {' | '.join(f'{size:,}' for size in sizes)} |", f"|---|{'---:|' * len(sizes)}"]
    lines += [f"| {name} | {' | '.join(_shown(column[name]) for column in columns)} |" for name in columns[0]]
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def main() -> None:
    figures = Figures()
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        if name not in {field.name for field in fields(Figures)}:
            raise SystemExit(f"no such figure: {name}; there are {', '.join(field.name for field in fields(Figures))}")
        figures = replace(figures, **{name: float(value)})
    print(table(figures))


if __name__ == "__main__":
    main()
