"""Settings of fetching the real images of D3."""

from dataclasses import dataclass

from rdd.config.checks import DAY_S, check

_MAX_PER_HOST = 1000
_MAX_IN_FLIGHT = 10_000
_MAX_IMAGE_BYTES = 2**30
_MAX_RETRIES = 20
_MAX_REDIRECTS = 20


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Fetching of real images from the addresses in D3."""

    output: str = ""
    """Directory to write: data/ (the table), report/, metrics.json; it is what records.real_images names."""
    contact: str = ""
    """Mail address or page where the owner of a website reaches you; sent with every request."""
    hub: str = ""
    """Data set on a model hub, elsaEU/ELSA_D3, whose Parquet is brought into records.path first."""
    hub_files: str = "data/*.parquet"
    """Files of fetch.hub that are brought, a pattern with * for any part of a path."""
    block_list: str = ""
    """File with an address, a host or the sha256 of an image on each line: none is asked for or kept."""
    excluded_ids: str = ""
    """File of ids that are not fetched: one on each line, or a JSON list as D3's authors publish it."""
    honour_directives: bool = True
    """Leave out images that are served with noai, noimageai, noindex or noimageindex in X-Robots-Tag."""
    per_host: int = 2
    """Requests to a host at the same time, of all workers, in [0, 1000]; 0 for no limit, on servers of your own."""
    num_workers: int = 1
    """Processes that fetch, at least 1."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for such a process, at least 0; it uses one at most."""
    in_flight: int = 256
    """Requests of one worker at the same time, in [1, 10000]."""
    records_per_file: int = 500
    """Records in one file of the table, at least 1; a kill costs the unfinished files."""
    files_per_worker: int = 4
    """Files that a worker fills at the same time, at least 1: the last images of one do not hold it up."""
    connect_timeout_s: float = 10.0
    """Seconds for a name to be resolved, and for a connection, in (0, 86400]."""
    read_timeout_s: float = 15.0
    """Seconds until the next bytes must come, in (0, 86400]."""
    image_timeout_s: float = 60.0
    """Seconds for a whole image with redirects and retries, in (0, 86400]; waiting for a turn does not count."""
    max_bytes: int = 20_000_000
    """Largest image in bytes, in [1, 2^30]; the rest of a larger one is not read."""
    max_redirects: int = 5
    """Redirects that are followed for one image, in [0, 20]."""
    retries: int = 3
    """Further tries after what may pass (429, 5xx, a reset, a resolver that is busy), in [0, 20]."""
    backoff_s: float = 1.0
    """Seconds before the first further try, doubled each time, varied by half, in (0, 86400]."""
    max_wait_s: float = 120.0
    """Longest wait before a further try, in (0, 86400]; a host whose Retry-After is longer becomes host_down."""
    host_failures: int = 20
    """Time-outs and refused connections in a row after which a host is host_down, not asked; 0 for never."""
    placeholder_urls: int = 10
    """Addresses, at least 1, that may serve the same bytes; above, these bytes are a placeholder."""
    retry_failed: bool = False
    """Ask once more for the images of a finished fetch that failed for a reason that may pass."""
    allow_loopback: bool = False
    """Fetch from 127.0.0.0/8 and ::1 too; for tests alone."""
    stall_timeout_s: float = 900.0
    """Seconds without an image or a file, in (0, 86400], after which the run ends as failed."""

    def __post_init__(self) -> None:
        self._check_contact()
        for name in ("num_workers", "records_per_file", "files_per_worker", "placeholder_urls"):
            check(getattr(self, name) >= 1, f"fetch.{name}", "be at least 1", getattr(self, name))
        for name, least, most in (
            ("per_host", 0, _MAX_PER_HOST),
            ("in_flight", 1, _MAX_IN_FLIGHT),
            ("max_bytes", 1, _MAX_IMAGE_BYTES),
            ("max_redirects", 0, _MAX_REDIRECTS),
            ("retries", 0, _MAX_RETRIES),
        ):
            check(least <= getattr(self, name) <= most, f"fetch.{name}", f"lie in [{least}, {most}]", getattr(self, name))
        for name in ("connect_timeout_s", "read_timeout_s", "image_timeout_s", "backoff_s", "max_wait_s", "stall_timeout_s"):
            check(0 < getattr(self, name) <= DAY_S, f"fetch.{name}", "lie in (0, 86400]", getattr(self, name))
        check(0 <= self.cpus_per_worker < float("inf"), "fetch.cpus_per_worker", "be at least 0", self.cpus_per_worker)
        check(self.host_failures >= 0, "fetch.host_failures", "be at least 0", self.host_failures)
        longest = self.image_timeout_s + self.max_wait_s
        check(
            self.stall_timeout_s > longest,
            "fetch.stall_timeout_s",
            f"be above fetch.image_timeout_s + fetch.max_wait_s = {longest:g}, since so long one image may take",
            self.stall_timeout_s,
        )

    def _check_contact(self) -> None:
        """It goes into a header, so it must be one line of plain letters, and something that can be reached."""
        plain = self.contact.isascii() and self.contact.isprintable() and not set(self.contact) & set("()\\ ")
        reachable = "@" in self.contact or "://" in self.contact
        check(
            not self.contact or (plain and reachable),
            "fetch.contact",
            "be a mail address or the address of a page, in ASCII and without spaces or brackets",
            repr(self.contact),
        )
